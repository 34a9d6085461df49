"""Options: the values that each may have, and the errors for all others."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Sequence
from typing import Any

import pytest

from cartows import Options, OptionsError
from cartows.options import OptionArguments, check_names

NUMBERS = {
    "broadcast_queue_size": "an integer above 0",
    "publish_timeout": "a number above 0",
    "send_queue_size": "an integer above 0",
    "send_queue_bytes": "an integer above 0",
    "write_wait": "a number above 0",
    "pong_wait": "a number above 0",
    "ping_period": "a number above 0",
    "max_message_size": "an integer above 0",
    "read_buffer": "an integer above 0",
    "write_buffer": "an integer above 0 or None",
    "total_queue_bytes": "an integer above 0 or None",
    "max_clients": "an integer above 0 or None",
    "max_filters": "an integer above 0",
    "compress_min_size": "an integer above 0 or None",
    "max_clients_per_ip": "an integer above 0 or None",
    "max_clients_per_user": "an integer above 0 or None",
    "rate_limit": "a number above 0 or None",
    "rate_burst": "an integer above 0",
    "rate_limit_bytes": "an integer above 0 or None",
    "history_size": "an integer above 0",
    "history_bytes": "an integer above 0",
    "history_ttl": "a number above 0",
    "presence_leave_wait": "a number above 0",
    "presence_room_limit": "an integer above 0",
    "spool_size": "an integer above 0",
    "spool_bytes": "an integer above 0",
}
SECONDS = {name for name, allowed in NUMBERS.items() if "integer" not in allowed}

WRONG: dict[str, tuple[str, list[Any]]] = {
    name: (allowed, [0, -1, "1", True, [1], float("nan"), float("inf")] + ([] if name in SECONDS else [1.5]))
    for name, allowed in NUMBERS.items()
}
for _name, (_allowed, _values) in WRONG.items():
    if "None" not in _allowed:
        _values.append(None)
WRONG["path"] = ('a path that begins with "/"', ["", "ws", None, 5])
WRONG["host"] = ('a host such as "live.example.com", or None', ["", "a/b", 5])
WRONG["greeting"] = ("true or false", [None, 1, 0, "yes"])
WRONG["handoff"] = ("true or false or None", [1, 0, "auto"])
WRONG["allowed_origins"] = (
    '"*", a callable(request), or a list such as ["https://app.example.com", "https://*.example.com"]',
    ["", "app.example.com", [], ["*"], ["app.example.com"], ["https://app.example.com", ""], [None], 5, b"https://a.example"],
)
WRONG["filter_keys"] = ('a list of names such as ["project_id", "board_id"]', ["", ",", [], [""], [1], None, 5, ["since"]])
WRONG["redis_url"] = ("redis://, rediss://, unix://", ["", "localhost", "http://localhost", 6379, b"redis://localhost", True])
WRONG["slow_consumer"] = ("one of 'disconnect', 'drop_oldest', 'coalesce'", ["", "drop", None, 5, ["coalesce"]])


def key_of(name: str) -> str:
    return f"CARTOWS_{name.upper()}"


def test_the_defaults() -> None:
    assert dataclasses.asdict(Options()) == {
        "path": "/ws",
        "host": None,
        "broadcast_queue_size": 256,
        "publish_timeout": 1.0,
        "send_queue_size": 256,
        "send_queue_bytes": 1024 * 1024,
        "total_queue_bytes": None,
        "slow_consumer": "disconnect",
        "history_size": 1024,
        "history_bytes": 8 * 1024 * 1024,
        "history_ttl": 300.0,
        "redis_url": None,
        "spool_size": 10_000,
        "spool_bytes": 16 * 1024 * 1024,
        "presence_leave_wait": 15.0,
        "presence_room_limit": 200,
        "write_wait": 10.0,
        "pong_wait": 60.0,
        "ping_period": 54.0,
        "max_message_size": 512 * 1024,
        "read_buffer": 4096,
        "write_buffer": 64 * 1024,
        "allowed_origins": None,
        "max_clients": None,
        "max_clients_per_ip": None,
        "max_clients_per_user": None,
        "rate_limit": 20.0,
        "rate_burst": 40,
        "rate_limit_bytes": 1024 * 1024,
        "max_filters": 100,
        "filter_keys": ("project_id", "board_id"),
        "compress_min_size": 1024,
        "greeting": True,
        "handoff": None,
    }


def test_wrong_values_are_tried_for_every_option() -> None:
    assert set(WRONG) == {field.name for field in dataclasses.fields(Options)}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_value_fails_with_the_key_the_value_and_what_is_allowed(name: str) -> None:
    allowed, values = WRONG[name]
    for value in values:
        with pytest.raises(OptionsError) as raised:
            Options(**{name: value})
        text = str(raised.value)
        # A URL may contain a password.
        assert key_of(name) in text and (repr(value) in text or name == "redis_url") and allowed in text, (value, text)
        with pytest.raises(OptionsError) as raised:
            Options.from_config({key_of(name): value})
        assert str(raised.value) == text


@pytest.mark.parametrize("name", ["send_queue_size", "publish_timeout"])
def test_a_number_too_large_for_a_float_fails_like_any_other(name: str) -> None:
    given: dict[str, Any] = {name: 10**400}
    with pytest.raises(OptionsError, match=key_of(name)):
        Options(**given)


@pytest.mark.parametrize(
    "name, value",
    [
        # More than threading.TIMEOUT_MAX: to wait that long for a lock is an OverflowError.
        ("publish_timeout", 1e10),
        ("pong_wait", 1e10),
        # More milliseconds than poll() takes, and more bytes than setsockopt() does.
        ("write_wait", 1e8),
        ("write_buffer", 2**31),
    ],
)
def test_a_number_that_the_system_cannot_use_fails_at_start_and_not_on_first_use(name: str, value: Any) -> None:
    with pytest.raises(OptionsError, match=key_of(name)):
        Options(**{name: value})


def test_the_smallest_value_is_accepted() -> None:
    for name in sorted(set(NUMBERS) - {"ping_period", "pong_wait"}):
        least: Any = 0.001 if name in SECONDS else 1
        found = getattr(Options(**{name: least}), name)
        assert found == least and isinstance(found, float if name in SECONDS else int), name
    assert Options(ping_period=0.001, pong_wait=0.002).ping_period == 0.001


def test_integer_seconds_are_accepted_and_kept_as_floats() -> None:
    options = Options(ping_period=5, pong_wait=7, write_wait=3, publish_timeout=2)
    assert all(isinstance(getattr(options, name), float) for name in SECONDS)


@pytest.mark.parametrize("ping_period, pong_wait", [(60.0, 60.0), (61, 60), (54, 54.0)])
def test_a_ping_period_must_be_less_than_the_pong_wait(ping_period: float, pong_wait: float) -> None:
    with pytest.raises(OptionsError) as raised:
        Options(ping_period=ping_period, pong_wait=pong_wait)
    text = str(raised.value)
    assert f"CARTOWS_PING_PERIOD={float(ping_period)!r}" in text and f"CARTOWS_PONG_WAIT={float(pong_wait)!r}" in text
    assert "less than" in text


def test_a_ping_period_just_below_the_pong_wait_is_accepted() -> None:
    assert Options(ping_period=59.9, pong_wait=60).ping_period == 59.9


def test_an_unknown_key_fails_and_the_options_are_named() -> None:
    with pytest.raises(OptionsError) as raised:
        Options.from_config({"CARTOWS_PING_PERIODE": 5})
    assert "CARTOWS_PING_PERIODE" in str(raised.value) and "CARTOWS_PING_PERIOD," in str(raised.value)


def test_an_unknown_argument_fails_and_the_options_are_named() -> None:
    with pytest.raises(OptionsError) as raised:
        Options.from_config({}, ping_periode=5)
    assert "ping_periode=" in str(raised.value) and "ping_period," in str(raised.value)


def test_every_option_is_a_key_and_keys_without_the_prefix_are_ignored() -> None:
    values: dict[str, Any] = {
        "path": "/live",
        "host": "live.example.com",
        "broadcast_queue_size": 1,
        "publish_timeout": 2.0,
        "send_queue_size": 3,
        "send_queue_bytes": 4,
        "total_queue_bytes": 1 << 40,
        "slow_consumer": "coalesce",
        "history_size": 13,
        "history_bytes": 14,
        "history_ttl": 15.0,
        "redis_url": "rediss://:secret@example.com/3",
        "spool_size": 22,
        "spool_bytes": 23,
        "presence_leave_wait": 16.0,
        "presence_room_limit": 17,
        "write_wait": 5.0,
        "pong_wait": 7.0,
        "ping_period": 6.0,
        "max_message_size": 8,
        "read_buffer": 9,
        "write_buffer": 10,
        "allowed_origins": "*",
        "max_clients": 11,
        "max_clients_per_ip": 18,
        "max_clients_per_user": 19,
        "rate_limit": 20.5,
        "rate_burst": 21,
        "rate_limit_bytes": 24,
        "max_filters": 12,
        "filter_keys": ("team",),
        "compress_min_size": None,
        "greeting": False,
        "handoff": True,
    }
    config = {key_of(name): value for name, value in values.items()}
    found = Options.from_config({**config, "SECRET_KEY": "x", "NOT_CARTOWS_PATH": 5, "cartows_path": 5})
    assert dataclasses.asdict(found) == values


def test_arguments_override_the_config() -> None:
    found = Options.from_config({"CARTOWS_PATH": "/config", "CARTOWS_MAX_FILTERS": 5}, path="/argument")
    assert (found.path, found.max_filters) == ("/argument", 5)


def test_the_config_overrides_its_base() -> None:
    base = Options(path="/base", max_filters=7, send_queue_size=3)
    found = Options.from_config({"CARTOWS_PATH": "/config", "CARTOWS_MAX_FILTERS": 5}, base, max_filters=6)
    assert (found.path, found.max_filters, found.send_queue_size) == ("/config", 6, 3)
    assert base == Options(path="/base", max_filters=7, send_queue_size=3)


def test_an_argument_replaces_a_wrong_value_of_the_config() -> None:
    assert Options.from_config({"CARTOWS_PATH": "config"}, path="/argument").path == "/argument"


def test_a_pair_of_values_is_checked_even_if_they_come_from_two_places() -> None:
    with pytest.raises(OptionsError, match="CARTOWS_PONG_WAIT"):
        Options.from_config({"CARTOWS_PONG_WAIT": 10.0}, ping_period=10.0)


def test_a_password_in_a_url_is_never_shown() -> None:
    assert "hunter2" not in repr(Options(redis_url="redis://:hunter2@example.com"))
    with pytest.raises(OptionsError) as raised:
        Options(redis_url="rediis://:hunter2@example.com")
    assert "CARTOWS_REDIS_URL" in str(raised.value) and "hunter2" not in str(raised.value)


def test_options_are_frozen() -> None:
    options = Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.path = "/other"  # type: ignore[misc]
    changed = dataclasses.replace(options, path="/other")
    assert (options.path, changed.path) == ("/ws", "/other")


def test_a_copy_is_checked_like_the_original() -> None:
    with pytest.raises(OptionsError, match="CARTOWS_SEND_QUEUE_SIZE"):
        dataclasses.replace(Options(), send_queue_size=0)


def test_origins_are_normalised_as_browsers_send_them() -> None:
    given: list[Any] = [
        "https://App.example.com, http://localhost:5000/",
        ["https://app.example.com/", " HTTP://localhost:5000"],
        ("https://app.example.com", "http://localhost:5000"),
    ]
    for origins in given:
        assert Options(allowed_origins=origins).allowed_origins == ("https://app.example.com", "http://localhost:5000"), origins


def test_an_origin_that_no_page_has_is_refused_with_its_fault() -> None:
    for origin, fault in {
        "wss://app.example.com": "address of a socket",
        "https://app.example.com/x": "more than an origin",
        "https://*": "only subdomains",
    }.items():
        with pytest.raises(OptionsError) as found:
            Options(allowed_origins=["https://other.example.com", origin])
        assert origin in str(found.value) and fault in str(found.value) and "CARTOWS_ALLOWED_ORIGINS" in str(found.value)


def test_null_is_an_origin() -> None:
    assert Options(allowed_origins="null").allowed_origins == ("null",)


def test_the_keyword_arguments_of_type_checkers_are_the_fields() -> None:
    arguments, fields = typing.get_type_hints(OptionArguments), typing.get_type_hints(Options)
    # A list, or a string with commas, becomes a tuple.
    assert arguments.pop("filter_keys") == Sequence[str] and fields.pop("filter_keys") == tuple[str, ...]
    assert arguments == fields and list(arguments) == list(fields)


def test_a_misspelt_argument_is_answered_with_what_was_meant() -> None:
    with pytest.raises(OptionsError, match=r"pign_period= is not an option of cartows. Did you mean ping_period=\?"):
        check_names({"ping_period": 5, "pign_period": 5})
    check_names({"ping_period": 5})


def test_an_origin_check_is_kept() -> None:
    def check(request: Any) -> bool:
        return True

    assert Options(allowed_origins=check).allowed_origins is check


def test_filter_keys_may_be_one_string() -> None:
    given: list[Any] = ["team,board_id", " team , board_id ", ["team", "board_id"], ("team", "board_id")]
    for keys in given:
        assert Options(filter_keys=keys).filter_keys == ("team", "board_id"), keys


def test_every_option_has_a_description_that_ends_with_its_default() -> None:
    lines = inspect.getsource(Options).splitlines()
    descriptions = {}
    text: list[str] = []
    for line in map(str.strip, lines):
        if line.startswith("#: "):
            text.append(line[3:])
        elif text:
            descriptions[line.partition(":")[0]] = " ".join(text)
            text = []
    assert descriptions.keys() == {field.name for field in dataclasses.fields(Options)}
    sizes = {
        "1 MiB": 1024**2,
        "8 MiB": 8 * 1024**2,
        "16 MiB": 16 * 1024**2,
        "64 KiB": 64 * 1024,
        "512 KiB": 512 * 1024,
        "10,000": 10_000,
    }
    for field in dataclasses.fields(Options):
        found = re.search(r" Default: (.+)\.$", descriptions[field.name])
        assert found, field.name
        default = found[1].strip("`")
        assert (sizes[default] if default in sizes else ast.literal_eval(default)) == field.default, field.name

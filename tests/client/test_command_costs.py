"""What one message may cost, whatever a client puts into it: counted in bytes of memory and in comparisons, not in seconds."""

from __future__ import annotations

import contextlib
import json
import sys
import tracemalloc
from typing import Any

import pytest

from cartows import Message, Options
from cartows.client import commands, rate_limit
from cartows.client.authorization import Authorization
from cartows.client.commands import INVALID_PERIOD, MAX_INVALID, Commands, InvalidMessage, parse_subscription
from cartows.client.connection import Connection
from cartows.client.subscriptions import ClientFilters, SubscriptionChange, TooManyRooms
from cartows.hooks import AppHooks, Hooks
from cartows.nesting import MAX_INBOUND_DEPTH
from tests.support.fakes import scripted

KEYS = ("project_id", "board_id")

#: Half a megabyte of the cheapest containers: as Python objects they take twenty times as much.
LISTS = "[" + "[]," * 170_000 + "0]"


class Speaker:
    """A client whose commands are handled at once, and whose answers are kept."""

    hooks: AppHooks | None
    identity = identity_key = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(commands.time, "monotonic", lambda: self.now)
        self.connection: Connection
        self.connection, _, _ = scripted(Options(**options))
        self.connection._limit = rate_limit.limit_of(self.connection.options, lambda: self.now)
        registered = Hooks()
        registered.add_message("echo", lambda client, message: client.received.append(message.data))
        self.hooks = AppHooks(registered, _App(), None)  # type: ignore[arg-type]
        self.received: list[Any] = []
        self.sent: list[Message] = []
        self.changes: list[SubscriptionChange] = []
        filters = ClientFilters(self.changes.append)
        self.commands = Commands(self, Authorization(self, _Revocations(), filters), filters)

    def send(self, message: Message) -> bool:
        self.sent.append(message)
        return True

    def send_pong(self, ref: str | None) -> None:
        self.sent.append(Message(type="pong"))

    def handling_failed(self, ref: str | None = None) -> None:
        raise AssertionError("a command has failed") from sys.exc_info()[1]

    def ask(self, text: str | bytes) -> str:
        """Handle a message; return the answer's type, or the code of its error."""
        before = len(self.sent)
        self.commands.handle(text)
        if len(self.sent) == before:
            return ""
        answer = self.sent[-1]
        return str(answer.data.code) if answer.type == "error" else answer.type

    def cost(self, text: str | bytes) -> tuple[str, int]:
        """Handle a message; return the answer, and how many bytes of memory it took at its peak."""
        tracemalloc.start()
        try:
            return self.ask(text), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


class _App:
    def app_context(self) -> Any:
        return contextlib.nullcontext()

    def ensure_sync(self, function: Any) -> Any:
        return function


class _Revocations:
    def revocation_mark(self) -> int:
        return 0

    def revoked_since(self, mark: int, identity_key: str | None) -> bool:
        return False

    def recheck_expiry(self, client: Any) -> None:
        """No credentials of these tests expire."""


@pytest.fixture
def speaker(monkeypatch: pytest.MonkeyPatch) -> Speaker:
    return Speaker(monkeypatch)


# Keys -----------------------------------------------------------------------------------------------------------------


class Colliding(int):
    """An integer with the hash that a client can give to as many as it likes: that of all multiples of 2**61 - 1."""

    compared = 0

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        Colliding.compared += 1
        return int(self) == other


@pytest.mark.parametrize("joins", [True, False])
def test_integers_of_one_hash_are_not_compared_with_each_other(joins: bool) -> None:
    Colliding.compared = 0
    values = [Colliding(number * (2**61 - 1)) for number in range(300)]
    found = parse_subscription({"board_id": values}, KEYS, joins=joins, max_rooms=300 if joins else None)
    assert len(found.rooms) == 300
    with pytest.raises(TooManyRooms):
        parse_subscription({"board_id": values}, KEYS, joins=True, max_rooms=299)
    for wrong in ([*values, None], [*values, []], [*values, 1.5], [*values, "x" * 1000]):
        with pytest.raises(InvalidMessage):
            parse_subscription({"board_id": wrong}, KEYS, joins=True, max_rooms=1000)
    assert Colliding.compared == 0


def test_no_more_rooms_are_held_than_a_client_may_name() -> None:
    names = [f"b{number}" for number in range(50)]
    assert len(parse_subscription({"board_id": names * 3}, KEYS, joins=True, max_rooms=50).rooms) == 50
    with pytest.raises(TooManyRooms):
        parse_subscription({"board_id": names, "project_id": "p"}, KEYS, joins=True, max_rooms=50)


# Size -----------------------------------------------------------------------------------------------------------------

OWN = ("ping", "pong", "subscribe", "unsubscribe", "auth.refresh")


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("rest", [f'"data":{LISTS}', f'"data":{{"board_id":{LISTS}}}', f'"x":{LISTS}', f'"ref":{LISTS}'])
def test_a_large_message_that_cartows_answers_itself_is_refused_before_it_is_decoded(
    speaker: Speaker, kind: str, rest: str
) -> None:
    answer, peak = speaker.cost(f'{{{rest},"type":"{kind}"}}')
    assert answer == "INVALID_MESSAGE"
    assert speaker.sent[-1].data.details == kind
    # A copy of the text, at most.
    assert peak < 1.5 * len(LISTS)


@pytest.mark.parametrize(
    "text",
    [LISTS, f'{{"type":{LISTS}}}', f'{{"data":{LISTS}}}', f'{{"type":"no.such","data":{LISTS}}}', f'{{"type":"","x":{LISTS}}}'],
    ids=["no object", "its type", "no type", "unknown type", "empty type"],
)
def test_what_nothing_handles_is_not_decoded(speaker: Speaker, text: str) -> None:
    answer, peak = speaker.cost(text)
    assert answer == ("UNKNOWN_TYPE" if "no.such" in text else "INVALID_MESSAGE")
    assert peak < 1.5 * len(LISTS)


@pytest.mark.parametrize("max_filters", [100, 5000])
def test_all_rooms_that_a_client_may_hold_fit_into_one_message(monkeypatch: pytest.MonkeyPatch, max_filters: int) -> None:
    speaker = Speaker(monkeypatch, max_filters=max_filters)
    names = [f"{number:05}{'x' * 245}" for number in range(max_filters)]
    assert speaker.ask(json.dumps({"type": "subscribe", "data": {"board_id": names}})) == ""
    assert len(speaker.changes[-1].subscriptions.rooms) == max_filters
    assert speaker.ask(json.dumps({"type": "unsubscribe", "data": {"board_id": names}})) == ""
    assert not speaker.changes[-1].subscriptions.rooms
    # A token is at most as long as a header.
    assert speaker.ask(json.dumps({"type": "auth.refresh", "data": {"token": "x" * 16384}})) == "FORBIDDEN"


@pytest.mark.parametrize("text", ['{"type":"ping","note":"%s"}', b'{"type":"ping","note":"%s"}', '{"type":"ping","é":"%s"}'])
def test_the_size_is_counted_in_bytes(speaker: Speaker, text: Any) -> None:
    bound = 32 * 1024 + 512 * 100
    unit: Any = b"x" if isinstance(text, bytes) else "x"
    empty = text % unit[:0]
    fits = bound - len(empty if isinstance(empty, bytes) else empty.encode())
    assert speaker.ask(text % (unit * fits)) == "pong"
    assert speaker.ask(text % (unit * (fits + 1))) == "INVALID_MESSAGE"
    assert str(bound) in speaker.sent[-1].data.message and str(bound + 1) in speaker.sent[-1].data.message


# The app's messages ---------------------------------------------------------------------------------------------------


def test_a_message_for_the_app_is_charged_for_what_it_unpacks_to(speaker: Speaker) -> None:
    limit = speaker.connection.limit
    assert limit is not None
    text = f'{{"type":"echo","data":{LISTS}}}'
    assert limit.admit(len(text)) == rate_limit.ADMIT
    assert speaker.ask(text) == "" and len(speaker.received[-1]) == 170_001
    # Half a megabyte of text, ten megabytes of lists, at one a second.
    assert 8 < limit.wait() < 12
    assert limit.admit(100) == rate_limit.NOTIFY
    # Pings of the WebSocket protocol are not messages.
    assert limit.admit(notify=False) == rate_limit.ADMIT
    speaker.now += limit.wait()
    assert limit.admit(100) == rate_limit.ADMIT


@pytest.mark.parametrize("data", ["x" * 400_000, [{"id": number, "title": "a task", "tags": []} for number in range(3000)]])
def test_an_ordinary_large_message_delays_nothing(speaker: Speaker, data: Any) -> None:
    limit = speaker.connection.limit
    assert limit is not None
    text = json.dumps({"type": "echo", "data": data})
    assert limit.admit(len(text)) == rate_limit.ADMIT
    assert speaker.ask(text) == "" and speaker.received == [data]
    assert limit.admit(1000) == rate_limit.ADMIT


# Depth ----------------------------------------------------------------------------------------------------------------


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", [MAX_INBOUND_DEPTH + 1, 900, 20_000, 100_000])
def test_a_value_that_is_too_deep_is_refused_on_every_python(speaker: Speaker, levels: int) -> None:
    assert speaker.ask(f'{{"type":"echo","data":{nested(levels)}}}') == "INVALID_MESSAGE"
    assert speaker.ask(f'{{"type":"subscribe","data":{{"board_id":"b","presence":{{"x":{nested(levels)}}}}}}}') == (
        "INVALID_MESSAGE"
    )
    assert speaker.received == []


def test_a_value_that_is_just_not_too_deep_is_received(speaker: Speaker) -> None:
    assert speaker.ask(f'{{"type":"echo","data":{nested(MAX_INBOUND_DEPTH)}}}') == ""
    assert json.dumps(speaker.received[-1]) == nested(MAX_INBOUND_DEPTH)
    # It can be sent on in a message of the app's own.
    Message(type="x", data={"by": {"ann": speaker.received[-1]}}).encode()


# Invalid messages -----------------------------------------------------------------------------------------------------

VALID = ['{"type":"ping"}', '{"type":"echo","data":1}', '{"type":"subscribe","data":{"board_id":"b"}}']


@pytest.mark.parametrize(
    "between", [[], *([each] for each in VALID), VALID * 5], ids=["none", "ping", "echo", "subscribe", "all"]
)
def test_invalid_messages_end_the_connection_whatever_is_sent_between_them(speaker: Speaker, between: list[str]) -> None:
    for _ in range(MAX_INVALID - 1):
        for text in between:
            assert speaker.ask(text) in ("", "pong")
        assert speaker.ask("{") == "INVALID_MESSAGE"
        assert not speaker.connection.closing
    speaker.ask("{")
    assert speaker.connection.close_code == 1008
    assert str(MAX_INVALID) in speaker.connection.close_reason


def test_a_client_that_seldom_sends_an_invalid_message_is_answered_for_ever(speaker: Speaker) -> None:
    """Such as the heartbeat of another protocol."""
    for _ in range(200):
        assert speaker.ask("hb") == "INVALID_MESSAGE"
        speaker.now += INVALID_PERIOD
    assert not speaker.connection.closing


def test_invalid_messages_are_forgotten_one_by_one(speaker: Speaker) -> None:
    for _ in range(MAX_INVALID - 1):
        speaker.ask("{")
    speaker.now += 3 * INVALID_PERIOD
    for _ in range(3):
        assert speaker.ask("{") == "INVALID_MESSAGE"
    assert not speaker.connection.closing
    speaker.ask("{")
    assert speaker.connection.close_code == 1008

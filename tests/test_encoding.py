"""What an app's own JSON takes is broadcast, and in the same form where its provider has ideas of its own."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import importlib.util
import json
import math
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.json.provider import DefaultJSONProvider, JSONProvider
from markupsafe import Markup
from werkzeug.datastructures import ImmutableMultiDict, MultiDict

from cartows import CartoWS, Hub, Message, MessageError, new_message, new_task_created_message
from cartows.message import EncodeHook

# Here: its first import starts threads that stay, which no test may.
numpy: Any = importlib.import_module("numpy") if importlib.util.find_spec("numpy") else None

MOMENT = dt.datetime(2026, 11, 23, 1, 23, 45, 123456, tzinfo=dt.UTC)


class Name(str):
    def __str__(self) -> str:
        return "not this"


class Count(int):
    pass


class Weight(float):
    pass


class Price(decimal.Decimal):
    pass


class Moment(dt.datetime):
    """As freezegun's FakeDatetime."""


class Day(dt.date):
    pass


class Hour(dt.time):
    pass


class Span(dt.timedelta):
    pass


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.Enum):
    RED = "red"
    UNKNOWN = None


class Kind(str, enum.Enum):  # noqa: UP042 -- as older apps have it
    TASK = "task"


class Pair(collections.namedtuple("Pair", "left right")):
    pass


@dataclasses.dataclass(frozen=True)
class Card:
    title: Any


class Column(msgspec.Struct, frozen=True):
    name: Any
    note: Any = None


class Row:
    """An object that JSON does not support."""


def refuse(value: Any) -> Any:
    raise TypeError(f"never asked for {value!r}")


def made(app: Flask) -> EncodeHook | None:
    """Return the hook that a hub gets from an app."""
    if "cartows" not in app.extensions:
        CartoWS(app)
    hook: EncodeHook | None = app.extensions["cartows"].hub.enc_hook
    return hook


def data_of(data: Any, hook: EncodeHook | None) -> Any:
    """Return what a browser gets for this data."""
    found = json.loads(new_message("x", data).encode(hook), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return found.get("data")


@pytest.fixture
def app() -> Flask:
    return Flask("the app")


# What any app's JSON takes ----------------------------------------------------------------------------------------

LIKE_FLASK: dict[str, Any] = {
    "a string of the app's own": Name("x"),
    "markup": Markup("<b>"),
    "an integer of the app's own": Count(3),
    "a float of the app's own": Weight(1.5),
    "a Decimal of the app's own": Price("1.50"),
    "an IntEnum": Level.HIGH,
    "a string enum": Kind.TASK,
    "a named tuple": Pair(1, 2),
    "None as a key": {None: 1},
    "True and False as keys": {True: 1, False: 2},
    "numbers as keys": {1: 1, 1.5: 2, Count(4): 3, Weight(2.5): 4},
    "strings as keys": {Name("x"): 1, Kind.TASK: 2},
    "an IntEnum as a key": {Level.HIGH: 1},
    "a MultiDict": MultiDict([("tag", "a"), ("tag", "b"), ("title", "x")]),
    "an ImmutableMultiDict": ImmutableMultiDict([("tag", "a"), ("tag", "b")]),
    "a MultiDict whose key has a quote": MultiDict([('a"b', "a"), ('a"b', "b")]),
    "an OrderedDict": collections.OrderedDict(b=1, a=[None]),
    "a UUID": uuid.UUID(int=1),
}


@pytest.mark.parametrize("value", LIKE_FLASK.values(), ids=LIKE_FLASK)
def test_what_flask_takes_is_sent_as_flask_sends_it(app: Flask, value: Any) -> None:
    for hook in (made(app), None, refuse):
        for data in (value, {"deep": [{"er": value}]}, [value], (value, None)):
            assert data_of(data, hook) == json.loads(app.json.dumps(data)), hook
        for holder in (Card(value), Column(value), Card([{"er": value}])):
            name = "title" if isinstance(holder, Card) else "name"
            found = data_of([holder], hook)[0][name]
            assert found == json.loads(app.json.dumps(getattr(holder, name)))
        typed = new_task_created_message("t1", "b1", value)
        expected = json.loads(app.json.dumps(value))
        assert json.loads(typed.encode(hook))["data"]["task"] == expected


@pytest.mark.parametrize(
    "value, found",
    [
        (Moment(2026, 11, 23, 1, 23, 45, tzinfo=dt.UTC), "2026-11-23T01:23:45Z"),
        (Moment(2026, 11, 23, 1, 23, 45), "2026-11-23T01:23:45"),
        (Day(2026, 11, 23), "2026-11-23"),
        (Hour(1, 2, 3), "01:02:03"),
        (Span(days=1), "P1D"),
        ({Moment(2026, 11, 23, 1, 23, 45, tzinfo=dt.UTC): 1}, {"2026-11-23T01:23:45Z": 1}),
        (Colour.RED, "red"),
        ({Colour.RED: 1, Colour.UNKNOWN: 2}, {"red": 1, "null": 2}),
    ],
)
def test_what_flask_has_no_good_form_for_is_sent_as_what_it_derives_from(app: Flask, value: Any, found: Any) -> None:
    for hook in (made(app), None):
        assert data_of(value, hook) == found
        assert data_of({"deep": [Card(value)]}, hook) == {"deep": [{"title": found}]}


def test_a_value_stays_as_it_is_although_what_it_holds_is_sent_otherwise() -> None:
    column = Column(Name("x"), {None: Card(Count(1))})
    before = repr(column)
    assert data_of(column, None) == {"name": "x", "note": {"null": {"title": 1}}}
    assert repr(column) == before and type(column.name) is Name


def test_a_timestamp_is_rfc_3339_whatever_the_class_of_the_clock(app: Flask) -> None:
    for moment in (Moment(2026, 11, 23, 1, 23, 45, tzinfo=dt.UTC), Moment(2026, 11, 23, 1, 23, 45)):
        for hook in (made(app), None, lambda value: "never asked"):
            message = Message(type="x", timestamp=moment)
            assert json.loads(message.encode(hook))["timestamp"] == "2026-11-23T01:23:45Z"


def test_a_frozen_clock_changes_no_form(app: Flask) -> None:
    freezegun = pytest.importorskip("freezegun")
    with freezegun.freeze_time("2026-11-23 01:23:45"):
        message = new_message("x", {"at": dt.datetime.now(dt.UTC), "day": dt.date.today()})
        for hook in (made(app), None):
            found = json.loads(message.encode(hook))
            assert found["timestamp"] == "2026-11-23T01:23:45Z"
            assert found["data"] == {"at": "2026-11-23T01:23:45Z", "day": "2026-11-23"}


@pytest.mark.skipif(numpy is None, reason="numpy is not installed")
def test_numbers_of_numpy_are_numbers(app: Flask) -> None:
    values = [numpy.float64(1.5), numpy.float32(0.5), numpy.int64(3), numpy.uint8(4), numpy.bool_(True), numpy.str_("x")]
    for hook in (made(app), None):
        assert data_of(values, hook) == [1.5, 0.5, 3, 4, True, "x"]
        assert data_of({numpy.int64(1): {"deep": numpy.int32(2)}}, hook) == {"1": {"deep": 2}}
        for value in (numpy.float64("nan"), numpy.float32("inf")):
            with pytest.raises(MessageError, match="is a number that JSON does not have"):
                data_of({"x": value}, hook)


# Numbers that JSON does not have ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, Weight("nan")], ids=repr)
def test_a_number_that_json_does_not_have_is_refused_with_its_place(app: Flask, number: float) -> None:
    provided = Flask("provided")
    provided.json = Provider(provided)
    for hook in (made(app), None, made(provided)):
        cases: list[tuple[Any, str]] = [
            (number, "data ("),
            ({"a": [1, {"b": number}]}, "data['a'][1]['b'] ("),
            ({"a": None, "big": 2**70, "b": number}, "data['b'] ("),
            ({"a": Card(number)}, "data['a'].title ("),
            ([Column("x", number)], "data[0].note ("),
            ({"text": "null", "tuple": (number,)}, "data['tuple'][0] ("),
        ]
        for data, place in cases:
            with pytest.raises(MessageError) as raised:
                new_message("x", data).encode(hook)
            assert f"at {place}" in str(raised.value) and "a number that JSON does not have" in str(raised.value)
    with pytest.raises(MessageError, match=r"at data\.task\['estimate'\]"):
        new_task_created_message("t1", "b1", {"estimate": number}).encode(made(app))


def test_a_number_that_json_does_not_have_is_refused_where_a_hook_returns_it() -> None:
    with pytest.raises(MessageError, match=r"data\['row'\] \(Row\): nan is a number"):
        data_of({"row": Row()}, lambda row: {"x": [math.nan]})


def test_null_and_large_numbers_are_no_reason_to_refuse(app: Flask) -> None:
    data = {
        "null": None,
        "text": "null",
        "big": 2**70,
        "small": 1e-300,
        "large": 1.7e308,
        "list": [[None]],
        "tags": {"a": ["b"]},
    }
    for hook in (made(app), None):
        assert data_of(data, hook) == data


def test_the_usual_values_are_encoded_once_and_not_looked_into(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    from cartows import encoding

    def never(values: Any) -> bool:
        raise AssertionError(f"looked into {values!r}")

    hook = made(app)
    monkeypatch.setattr(encoding, "_differs", never)
    monkeypatch.setattr(encoding, "_rebuilt", never)
    task = {"id": uuid.UUID(int=1), "title": "x", "due": None, "at": MOMENT, "weight": 1.5, "tags": ["a"], "done": False}
    for each in (hook, None):
        assert json.loads(new_task_created_message("t1", "b1", task).encode(each))["data"]["task"]["title"] == "x"


# An app with a provider of its own --------------------------------------------------------------------------------


def isoformat(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return f"at {value:%H:%M}"
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not known here")


class Provider(DefaultJSONProvider):
    """A provider with ideas of its own of dates and Decimals, and an indentation."""

    def default(self, value: Any) -> Any:  # type: ignore[override]
        return isoformat(value)

    def dumps(self, obj: Any, **options: Any) -> str:
        return super().dumps(obj, indent=2, **options)


class Bare(JSONProvider):
    """All that Flask asks for, as for orjson: no ``default``, and JSON of bytes turned into a string."""

    def dumps(self, obj: Any, **options: Any) -> str:
        return json.dumps(obj, default=isoformat, **options)

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return json.loads(s, **options)


def provided(make: Callable[[Flask], Any]) -> EncodeHook | None:
    app = Flask("provided")
    hook = made(app)
    # After the extension has been given the app: a factory may do that in any order.
    app.json = make(app)
    return hook


def assigned(app: Flask) -> Any:
    app.json.default = isoformat  # type: ignore[attr-defined]
    return app.json


@pytest.fixture(params=[Provider, Bare, assigned])
def own(request: pytest.FixtureRequest) -> EncodeHook | None:
    return provided(request.param)


def test_a_provider_with_ideas_of_its_own_is_followed(own: EncodeHook | None) -> None:
    data = {"at": MOMENT, "price": decimal.Decimal("1.50"), "form": MultiDict([("a", "1"), ("a", "2")]), "n": None}
    found = {"at": "at 01:23", "price": 1.5, "form": {"a": "1"}, "n": None}
    assert data_of(data, own) == found
    message = new_task_created_message("t1", decimal.Decimal("2.5"), data, project_id="p1")
    written = message.encode(own)
    assert b"\n" not in written and b": " not in written
    assert json.loads(written)["data"] == {
        "task_id": "t1", "board_id": 2.5, "project_id": "p1", "action": "created", "task": found,
    }  # fmt: skip
    assert json.loads(written)["timestamp"].endswith("Z"), "the envelope is not the provider's"


def test_a_provider_is_asked_for_each_value_where_it_does_not_take_the_whole(own: EncodeHook | None) -> None:
    data = {"set": {MOMENT}, "card": Card(MOMENT), "column": Column(MOMENT), "id": uuid.UUID(int=1), "raw": msgspec.Raw(b"[1]")}
    assert data_of(data, own) == {
        "set": ["at 01:23"],
        "card": {"title": "at 01:23"},
        "column": {"name": "at 01:23", "note": None},
        "id": "00000000-0000-0000-0000-000000000001",
        "raw": [1],
    }


def test_what_a_provider_does_not_take_is_named_with_its_place(own: EncodeHook | None) -> None:
    with pytest.raises(MessageError, match=r"at data\['rows'\]\[1\] \(Row\): Row is not known here"):
        data_of({"rows": [1, Row()]}, own)


def test_a_value_that_contains_itself_is_rejected_by_a_provider_too(own: EncodeHook | None) -> None:
    data: dict[str, Any] = {}
    data["inner"] = [data]
    with pytest.raises(MessageError, match="nested too deeply, or contains itself"):
        data_of(data, own)


def test_a_provider_with_other_settings_alone_has_no_ideas_of_its_own() -> None:
    class Unsorted(DefaultJSONProvider):
        sort_keys = False
        ensure_ascii = False

    assert data_of({"at": MOMENT}, provided(Unsorted)) == {"at": "2026-11-23T01:23:45.123456Z"}


def test_a_hook_of_the_hub_wins_over_the_apps_provider() -> None:
    app = Flask("the app")
    app.json = Provider(app)
    hub = Hub(enc_hook=lambda row: "a row")
    CartoWS(app, hub)
    assert data_of([Row(), MOMENT], hub.enc_hook) == ["a row", "2026-11-23T01:23:45.123456Z"]

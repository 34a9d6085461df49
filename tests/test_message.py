"""Messages: the exact shape of each event on the wire, what can be encoded, and the errors for what cannot."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartows import (
    BoardEvent,
    ErrorEvent,
    Message,
    MessageError,
    MessageType,
    ProjectEvent,
    TaskEvent,
    new_board_updated_message,
    new_error_message,
    new_message,
    new_project_created_message,
    new_project_updated_message,
    new_task_created_message,
    new_task_deleted_message,
    new_task_updated_message,
)
from cartows.message import decode_object, encode_text
from cartows.nesting import MAX_DEPTH, MAX_INBOUND_DEPTH

LIGHT = settings(deadline=None, report_multiple_bugs=False, max_examples=120, suppress_health_check=[HealthCheck.too_slow])

MOMENT = dt.datetime(2026, 11, 23, 1, 23, 45, 123456, tzinfo=dt.UTC)

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(), inner, max_size=5)),
    max_leaves=20,
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Card:
    title: str
    due: Any = None


class Column(msgspec.Struct):
    name: str
    cards: list[Any] = []


class Model:
    """An object that JSON cannot encode, such as a row of an ORM."""

    def __init__(self, name: str) -> None:
        self.name = name


def wire(message: Message, enc_hook: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Return a message as a browser parses it."""
    found = json.loads(message.encode(enc_hook).decode())
    assert isinstance(found, dict)
    return found


def data_of(data: Any, enc_hook: Callable[[Any], Any] | None = None) -> Any:
    """Return what a browser gets for this data."""
    return wire(new_message("app.event", data), enc_hook)["data"]


# The shape --------------------------------------------------------------------------------------------------------

EVENTS: list[tuple[Message, str, dict[str, Any]]] = [
    (
        new_task_created_message("t1", "b1", {"title": "x"}, project_id="p1"),
        "task.created",
        {"task_id": "t1", "board_id": "b1", "project_id": "p1", "action": "created", "task": {"title": "x"}},
    ),
    (
        new_task_created_message("t1", "b1", None),
        "task.created",
        {"task_id": "t1", "board_id": "b1", "action": "created"},
    ),
    (
        new_task_updated_message("t1", "b1", {"title": "y"}, {"title": "y"}, project_id="p1"),
        "task.updated",
        {
            "task_id": "t1",
            "board_id": "b1",
            "project_id": "p1",
            "action": "updated",
            "changes": {"title": "y"},
            "task": {"title": "y"},
        },
    ),
    (
        new_task_updated_message("t1", "b1", {"column": 2}, action="moved"),
        "task.updated",
        {"task_id": "t1", "board_id": "b1", "action": "moved", "changes": {"column": 2}},
    ),
    (
        new_task_deleted_message("t1", "b1", project_id="p1"),
        "task.deleted",
        {"task_id": "t1", "board_id": "b1", "project_id": "p1", "action": "deleted"},
    ),
    (new_task_deleted_message("t1", "b1"), "task.deleted", {"task_id": "t1", "board_id": "b1", "action": "deleted"}),
    (
        new_project_created_message("p1", {"name": "x"}),
        "project.created",
        {"project_id": "p1", "action": "created", "project": {"name": "x"}},
    ),
    (
        new_project_updated_message("p1", {"name": "y"}, {"name": "y"}),
        "project.updated",
        {"project_id": "p1", "action": "updated", "changes": {"name": "y"}, "project": {"name": "y"}},
    ),
    (
        new_project_updated_message("p1", {"name": "y"}),
        "project.updated",
        {"project_id": "p1", "action": "updated", "changes": {"name": "y"}},
    ),
    (
        new_board_updated_message("b1", "p1", {"name": "y"}, {"name": "y"}),
        "board.updated",
        {"board_id": "b1", "project_id": "p1", "action": "updated", "changes": {"name": "y"}, "board": {"name": "y"}},
    ),
    (
        new_board_updated_message("b1", None, {"order": ["t2", "t1"]}, action="reordered"),
        "board.updated",
        {"board_id": "b1", "action": "reordered", "changes": {"order": ["t2", "t1"]}},
    ),
]


@pytest.mark.parametrize("message, type_, data", EVENTS)
def test_each_event_has_exactly_this_shape(message: Message, type_: str, data: dict[str, Any]) -> None:
    found = wire(message)
    timestamp = found.pop("timestamp")
    assert found == {"type": type_, "data": data}
    assert timestamp.endswith("Z") and dt.datetime.fromisoformat(timestamp.replace("Z", "+00:00")) == message.timestamp


def test_empty_values_are_left_out() -> None:
    nothing: list[Any] = [None, {}, ""]
    for empty in nothing:
        messages = [
            new_task_created_message("t1", "b1", empty, project_id=empty),
            new_task_updated_message("t1", "b1", empty, empty, project_id=empty),
            new_task_deleted_message("t1", "b1", project_id=empty),
            new_project_created_message("p1", empty),
            new_project_updated_message("p1", empty, empty),
            new_board_updated_message("b1", empty, empty, empty),
        ]
        for message in messages:
            keys = set(wire(message)["data"])
            owner = "project_id" if message.type.startswith("project") else "board_id"
            assert keys in ({owner, "action"}, {owner, "task_id", "action"}), (empty, message)


def test_zero_and_false_are_not_empty() -> None:
    data = wire(new_task_updated_message(0, 0, {"done": False}, project_id=0))["data"]
    assert data == {"task_id": 0, "board_id": 0, "project_id": 0, "action": "updated", "changes": {"done": False}}


def test_the_envelope_holds_type_and_timestamp_and_no_empty_field() -> None:
    assert set(wire(new_message("ping"))) == {"type", "timestamp"}
    found = wire(Message(type="x", timestamp=MOMENT, id="e.1", data=0, error="why"))
    assert found == {"type": "x", "timestamp": "2026-11-23T01:23:45.123456Z", "id": "e.1", "data": 0, "error": "why"}


def test_a_message_is_stamped_with_the_moment_it_was_made() -> None:
    before = dt.datetime.now(dt.UTC)
    first = new_message("x")
    assert before <= first.timestamp <= dt.datetime.now(dt.UTC)
    assert wire(first)["timestamp"] == wire(first)["timestamp"]


def test_an_error_has_its_sentence_twice_once_for_each_kind_of_client() -> None:
    found = wire(new_error_message("FORBIDDEN", "No.", "board b1"))
    assert found["error"] == "No."
    assert found["data"] == {"code": "FORBIDDEN", "message": "No.", "details": "board b1"}
    assert wire(new_error_message("FORBIDDEN", "No."))["data"] == {"code": "FORBIDDEN", "message": "No."}


def test_the_types_on_the_wire_are_those_of_the_contract() -> None:
    assert {each.value for each in MessageType} >= {
        "task.created",
        "task.updated",
        "task.deleted",
        "project.created",
        "project.updated",
        "board.updated",
        "connected",
        "disconnect",
        "ping",
        "pong",
        "error",
    }
    assert wire(new_message(MessageType.PONG))["type"] == "pong"
    assert new_message("comment.added").type == "comment.added"


def test_events_can_be_made_by_hand() -> None:
    assert data_of(TaskEvent(task_id=1, board_id=2, action="x")) == {"task_id": 1, "board_id": 2, "action": "x"}
    assert data_of(ProjectEvent(project_id=1, action="x")) == {"project_id": 1, "action": "x"}
    assert data_of(BoardEvent(board_id=1, action="x")) == {"board_id": 1, "action": "x"}
    assert data_of(ErrorEvent(code="X", message="y")) == {"code": "X", "message": "y"}


# What can be encoded -----------------------------------------------------------------------------------------------


VALUES: list[tuple[Any, Any]] = [
    (MOMENT, "2026-11-23T01:23:45.123456Z"),
    (dt.date(2026, 11, 23), "2026-11-23"),
    (dt.time(1, 2, 3), "01:02:03"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (decimal.Decimal("10.50"), "10.50"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Card("x", MOMENT), {"title": "x", "due": "2026-11-23T01:23:45.123456Z"}),
    (Column("x", [Card("y")]), {"name": "x", "cards": [{"title": "y", "due": None}]}),
    ((1, 2), [1, 2]),
    ({3}, [3]),
    (frozenset({3}), [3]),
    ({1: "a"}, {"1": "a"}),
    ({uuid.UUID(int=1): 1}, {"00000000-0000-0000-0000-000000000001": 1}),
    (msgspec.Raw(b'{"a": 1}'), {"a": 1}),
    (2**70, 2**70),
]


def test_common_types_of_applications_are_encoded() -> None:
    for value, found in VALUES:
        assert data_of(value) == found, value
        assert data_of({"deep": [value]}) == {"deep": [found]}, value


def test_attrs_classes_are_encoded() -> None:
    attrs = pytest.importorskip("attrs")
    point = attrs.make_class("Point", ["x", "y"])
    assert data_of([point(1, dt.date(2026, 11, 23))]) == [{"x": 1, "y": "2026-11-23"}]


@LIGHT
@given(JSON)
def test_any_json_comes_back_as_it_went_in(data: Any) -> None:
    message = new_message("app.event", data)
    encoded = message.encode()
    found = decode_object(encoded)
    assert found is not None
    assert found == json.loads(encoded)
    assert found.get("data") == data
    assert b"\n" not in encoded


@LIGHT
@given(JSON)
def test_a_hook_changes_nothing_that_json_can_encode(data: Any) -> None:
    def hook(value: Any) -> Any:
        raise AssertionError(f"called with {value!r}")

    message = new_message("app.event", data)
    assert message.encode(hook) == message.encode()


def test_the_hook_is_called_for_what_json_cannot_encode() -> None:
    asked: list[Any] = []

    def hook(value: Any) -> Any:
        asked.append(value)
        return {"name": value.name, "at": MOMENT}

    row = Model("x")
    assert data_of({"rows": [row]}, hook) == {"rows": [{"name": "x", "at": "2026-11-23T01:23:45.123456Z"}]}
    assert asked == [row]


# What cannot be encoded ---------------------------------------------------------------------------------------------

NESTED: list[tuple[Message, str]] = [
    (new_message("app.event", Model("x")), "data (Model)"),
    (new_message("app.event", {"task": {"tags": [1, Model("x")]}}), "data['task']['tags'][1] (Model)"),
    (new_message("app.event", [0, (1, Model("x"))]), "data[1][1] (Model)"),
    (new_message("app.event", {"card": Card("x", due=[Model("x")])}), "data['card'].due[0] (Model)"),
    (new_message("app.event", Column("x", [{"card": Model("x")}])), "data.cards[0]['card'] (Model)"),
    (new_task_created_message("t1", "b1", {"owner": Model("x")}), "data.task['owner'] (Model)"),
    (new_task_updated_message("t1", "b1", {"owner": Model("x")}), "data.changes['owner'] (Model)"),
    (new_message("app.event", {"keys": {(1, 2): 3}}), "data['keys'] (dict)"),
]


def test_a_value_that_cannot_be_serialised_is_named_with_its_place_and_the_remedy() -> None:
    for message, place in NESTED:
        with pytest.raises(MessageError) as raised:
            message.encode()
        text = str(raised.value)
        assert f"at {place}:" in text
        assert repr(message.type) in text and "enc_hook" in text, text
        assert raised.value.__cause__ is not None


def test_an_error_of_the_hook_is_raised_with_the_place() -> None:
    def hook(value: Any) -> Any:
        raise LookupError(f"no row {value.name}")

    with pytest.raises(MessageError, match=r"data\['rows'\]\[0\] \(Model\): .*no row x"):
        new_message("app.event", {"rows": [Model("x")]}).encode(hook)


def test_a_hook_that_returns_its_argument_is_rejected() -> None:
    with pytest.raises(MessageError):
        new_message("app.event", {"row": Model("x")}).encode(lambda value: value)


def test_a_message_error_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        new_message("app.event", object()).encode()


def _list_in_itself() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


def _dict_in_itself() -> Any:
    found: dict[str, Any] = {}
    found["inner"] = [found]
    return found


def _card_in_itself() -> Any:
    card = Card("x")
    card.due = card
    return card


def _deep() -> Any:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize("make", [_list_in_itself, _dict_in_itself, _card_in_itself, _deep])
def test_a_value_that_contains_itself_or_is_too_deep_is_rejected(make: Callable[[], Any]) -> None:
    with pytest.raises(MessageError, match="nested too deeply, or contains itself"):
        new_message("app.event", make()).encode()


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": "]", "b": inner, "]": 1}], ids=["list", "dict"])
def test_the_bound_of_depth_is_the_same_on_every_python(wrap: Callable[[Any], Any]) -> None:
    found: Any = "[" * 600
    for _ in range(MAX_DEPTH - 1):
        found = wrap(found)
    # The message itself is a level.
    assert json.loads(new_message("app.event", found).encode())["data"] == found
    with pytest.raises(MessageError, match=f"At most {MAX_DEPTH} levels"):
        new_message("app.event", wrap(found)).encode()


@pytest.mark.parametrize(
    "data, place",
    [("a\ud800", "data (str)"), ({"name": ["\udfff"]}, "data['name'][0] (str)"), ({"\ud800": 1}, "data (dict)")],
)
def test_a_lone_surrogate_is_rejected_with_a_message_that_can_be_logged(data: Any, place: str) -> None:
    with pytest.raises(MessageError) as raised:
        new_message("app.event", data).encode()
    assert f"at {place}:" in str(raised.value)
    str(raised.value).encode()


def test_a_lone_surrogate_in_the_type_is_rejected() -> None:
    with pytest.raises(MessageError) as raised:
        new_message("app\ud800").encode()
    str(raised.value).encode()


def test_a_text_message_is_utf_8_or_rejected() -> None:
    assert encode_text("é😀") == "é😀".encode()
    with pytest.raises(MessageError) as raised:
        encode_text("a\ud800")
    str(raised.value).encode()


# Inbound ------------------------------------------------------------------------------------------------------------


@LIGHT
@given(st.one_of(st.binary(), ANY_TEXT))
def test_anything_a_client_sends_is_an_object_or_none(data: str | bytes) -> None:
    found = decode_object(data)
    assert found is None or isinstance(found, dict)


@LIGHT
@given(JSON, st.data())
def test_json_with_a_byte_changed_is_an_object_or_none(data: Any, choose: st.DataObject) -> None:
    encoded = bytearray(json.dumps({"type": "x", "data": data}).encode())
    encoded[choose.draw(st.integers(0, len(encoded) - 1))] = choose.draw(st.integers(0, 255))
    found = decode_object(bytes(encoded))
    assert found is None or isinstance(found, dict)


@LIGHT
@given(JSON)
def test_only_an_object_is_accepted(data: Any) -> None:
    for text in (json.dumps(data), json.dumps(data).encode()):
        assert decode_object(text) == (data if isinstance(data, dict) else None)


HOSTILE: list[str | bytes] = [
    b'{"a":' + b"[" * MAX_INBOUND_DEPTH + b"]" * MAX_INBOUND_DEPTH + b"}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a":' + b"1" * 5000 + b"}",
    b'{"a":1e999}',
    b'{"a":"\xff"}',
    '{"a":"\ud800"}',
    b'\xef\xbb\xbf{"a":1}',
    b'{"a":1}{"a":1}',
    "",
    b"",
]


def test_hostile_json_is_none() -> None:
    for data in HOSTILE:
        assert decode_object(data) is None, data[:20]


def test_json_of_just_the_largest_depth_is_decoded() -> None:
    assert decode_object('{"a":' * MAX_INBOUND_DEPTH + "1" + "}" * MAX_INBOUND_DEPTH) is not None
    assert decode_object('{"a":"%s"}' % ("[{" * 1000)) == {"a": "[{" * 1000}

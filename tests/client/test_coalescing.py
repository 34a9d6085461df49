"""Merging: the newer update with the older one's changes beneath its own, and nothing else altered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartows.client.coalescing import merge
from cartows.message import new_task_updated_message
from cartows.websocket.frames import Frame

ENTITY = ("task", "t1")


def update(data: Any, *, number: int = 1, compress_min_size: int | None = None) -> Frame:
    """Return an update's frame; ``data`` is JSON text, or a value."""
    text = data if isinstance(data, str) else json.dumps(data)
    payload = f'{{"type":"task.updated","timestamp":"T{number}","data":{text},"id":"e.{number}"}}'
    return Frame(payload.encode(), number=number, entity=ENTITY, merges=True, compress_min_size=compress_min_size)


def changed(changes: Any, *, number: int = 1) -> Frame:
    """Return the frame of an update with these changes."""
    return update({"task_id": "t1", "changes": changes}, number=number)


def test_the_older_changes_lie_beneath_the_newer_ones() -> None:
    merged = merge(changed({"a": 1, "b": 1}), changed({"b": 2, "c": 2}, number=2))
    assert json.loads(merged.payload)["data"]["changes"] == {"a": 1, "b": 2, "c": 2}


def test_a_value_is_replaced_whole() -> None:
    merged = merge(changed({"a": {"x": 1}, "b": 1}), changed({"a": {"y": 2}}, number=2))
    assert json.loads(merged.payload)["data"]["changes"] == {"a": {"y": 2}, "b": 1}


def test_all_else_is_the_newer_updates_and_stands_as_it_stood() -> None:
    older = update('{"task_id":"t1","action":"moved","changes":{"a":1},"task":{"old":true},"board_id":"b0"}')
    newer = update('{"task_id":"t1","action":"updated","changes":{"b":2},"task":{"new":true}}', number=2)
    assert merge(older, newer).payload == (
        b'{"type":"task.updated","timestamp":"T2","data":{"task_id":"t1","action":"updated","changes":{"a":1,"b":2},'
        b'"task":{"new":true}},"id":"e.2"}'
    )


def test_a_merged_update_is_the_newer_ones_frame_but_not_compressed_for_one_client() -> None:
    merged = merge(changed({"a": 1}), update({"changes": {"b": "x" * 999}}, number=7, compress_min_size=0))
    assert (merged.number, merged.entity, merged.merges, merged.compressible) == (7, ENTITY, True, False)
    assert merged.wire(True) == merged.plain


@pytest.mark.parametrize(
    "number", ["12345678901234567890123456789", "1.10", "0.1000000000000000055511151231257827", "1E400", "-0"]
)
def test_numbers_stay_as_they_were_written(number: str) -> None:
    older = update(f'{{"task_id":{number},"changes":{{"old":{number},"deep":[{{"x":{number}}}]}}}}')
    newer = update(f'{{"task_id":{number},"changes":{{"new":{number}}},"task":{{"x":{number}}}}}', number=2)
    assert (
        merge(older, newer).payload
        == (
            f'{{"type":"task.updated","timestamp":"T2","data":{{"task_id":{number},"changes":{{"old":{number},"deep":[{{"x":{number}}}],'
            f'"new":{number}}},"task":{{"x":{number}}}}},"id":"e.2"}}'
        ).encode()
    )


def test_an_update_without_changes_takes_those_of_the_older_one() -> None:
    for without in [{"task_id": "t1"}, {"task_id": "t1", "changes": None}]:
        merged = merge(changed({"a": 1}), update(without, number=2))
        assert json.loads(merged.payload)["data"] == {"task_id": "t1", "changes": {"a": 1}}
        assert merged.number == 2
    merged = merge(changed([1]), update({}, number=2))
    assert json.loads(merged.payload)["data"] == {"changes": [1]}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"changes": {"a": 1}}, {"changes": {"a": 2, "b": 2}}),
        ({"changes": {}}, {"changes": {"b": 2}}),
        ({}, {"changes": {"b": 2}}),
        ({"changes": None}, {"changes": {"b": 2}}),
        ({}, {}),
    ],
)
def test_where_the_older_one_adds_nothing_the_newer_frame_itself_is_kept(older: Any, newer: Any) -> None:
    frame = update(newer, number=2)
    assert merge(update(older), frame) is frame


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ('{"changes":{"a":1}}', '{"changes":["b"]}'),
        ('{"changes":["a"]}', '{"changes":{"b":1}}'),
        ('{"changes":"a"}', '{"changes":"b"}'),
        ('{"changes":{"a":1}}', "null"),
        ('{"changes":{"a":1}}', "[]"),
        ("7", '{"changes":{"b":1}}'),
        ('{"changes":{"a":1}}', '{"changes":{"b":1'),
        ('{"changes":{"a":1', '{"changes":{"b":1}}'),
        ('{"changes":{"a":1}}', "[" * 100_000),
        ('{"changes":' + "[" * 100_000 + "}", '{"changes":{"b":1}}'),
    ],
)
def test_what_is_not_written_as_events_are_leaves_the_newer_frame_as_it_is(older: str, newer: str) -> None:
    frame = update(newer, number=2)
    assert merge(update(older), frame) is frame


@pytest.mark.parametrize(
    "payload", [b"", b"hello", b"[]", b"{}", b'{"type":"x"}', b"\xff\xfe", b'{"data":{"\xff":1}}', b'{"data":"\xff"}']
)
def test_a_message_of_another_kind_is_left_as_it_is_on_either_side(payload: bytes) -> None:
    strange = Frame(payload, number=2, entity=ENTITY, merges=True)
    usual = changed({"a": 1}, number=3)
    assert merge(usual, strange) is strange
    assert merge(strange, usual) is usual


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.dictionaries(TEXT, VALUES, max_size=4)


@given(st.lists(CHANGES, min_size=1, max_size=4), VALUES)
def test_a_chain_of_updates_merges_to_what_they_amount_to_one_by_one(chain: list[dict[str, Any]], task: Any) -> None:
    expected: dict[str, Any] = {}
    merged: Frame | None = None
    newest = b""
    for number, changes in enumerate(chain, 1):
        expected |= changes
        message = new_task_updated_message("t1", "b1", changes, task)
        message.id = f"e.{number}"
        newest = message.encode()
        frame = Frame(newest, number=number, entity=ENTITY, merges=True)
        merged = frame if merged is None else merge(merged, frame)
    assert merged is not None
    found, last = json.loads(merged.payload), json.loads(newest)
    assert found["data"].pop("changes", {}) == expected
    last["data"].pop("changes", None)
    assert found == last
    assert merged.number == len(chain)

"""Coalescing: an update merged into a newer one, and the queue in which updates merge."""

from __future__ import annotations

import json
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartows.client.coalescing import merge
from cartows.message import new_task_updated_message
from cartows.websocket.frames import Frame
from tests.support.send_queues import answer, changes, event, events, frame, made, names

# Merging two updates --------------------------------------------------------------------------------------------------

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
    for number, each in enumerate(chain, 1):
        expected |= each
        message = new_task_updated_message("t1", "b1", each, task)
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


# The queue ------------------------------------------------------------------------------------------------------------


def test_of_the_updates_of_one_entity_the_newest_stays_in_its_own_place_with_all_changes() -> None:
    queue = made(
        "coalesce",
        [event(1, name="a", x=1, y=1), event(2, name="b", x=2), event(3, name="a", y=3), event(4, name="a", z=4), event(5)],
    )
    assert queue.relieve(0)
    assert names(queue) == ["lost 1", 2, 4, 5]
    assert changes(queue) == {2: {"x": 2}, 4: {"x": 1, "y": 3, "z": 4}, 5: {}}
    assert queue.incomplete


def test_once_begun_each_new_update_merges_with_the_one_that_waits_until_the_queue_is_empty() -> None:
    queue = made("coalesce", [event(number, name="a", x=number) for number in range(1, 6)])
    assert queue.relieve(0)
    queue.extend([event(6, name="b", x=6), event(7, name="a", y=7)])
    assert names(queue) == ["lost 1", 6, 7]
    assert changes(queue)[7] == {"x": 5, "y": 7}
    queue.pop(3)
    queue.extend([event(8, name="a", x=8), event(9, name="a", x=9)])
    assert names(queue) == [8, 9]


def test_what_has_gone_out_is_merged_with_nothing() -> None:
    queue = made("coalesce", [event(1, name="a", x=1), event(2, name="a", y=2), *events(3, 4, 5)])
    assert queue.relieve(0) is False
    assert names(queue) == ["lost 1", 2, 3, 4, 5]
    queue.pop(2)
    queue.extend([event(6, name="a", z=6)])
    assert names(queue) == [3, 4, 5, 6]
    assert changes(queue)[6] == {"z": 6}


def test_an_update_that_goes_out_leaves_the_one_after_a_barrier_to_be_merged() -> None:
    queue = made("coalesce", [event(1, name="a"), event(2, "deleted", "a"), event(3, name="a", x=3), *events(4, 5)])
    assert not queue.relieve(0)
    queue.pop(1)
    queue.extend([event(6, name="a", y=6)])
    assert names(queue) == [2, "lost 3", 4, 5, 6]
    assert changes(queue)[6] == {"x": 3, "y": 6}


def test_what_is_given_up_before_the_notice_moves_the_notice_there() -> None:
    queue = made("coalesce", [event(1, name="a"), event(2, name="b"), event(3), event(4, name="b"), event(5, name="b")])
    assert queue.relieve(0)
    assert names(queue) == [1, "lost 2", 3, 5]
    queue.extend([event(6, name="a")])
    assert names(queue) == ["lost 1", 3, 5, 6]


def test_what_is_merged_once_the_notice_has_gone_out_has_one_of_its_own() -> None:
    queue = made("coalesce", [event(1, name="a"), event(2, name="a"), event(3, name="b"), event(4, name="a")], max_frames=3)
    assert queue.relieve(0)
    queue.pop(1)
    queue.incomplete = False
    queue.extend([event(5, name="b")])
    assert names(queue) == ["lost 3", 4, 5]
    assert queue.incomplete


LOCAL = {"type": "task.updated", "id": 3, "data": {"task_id": "a", "changes": {"x": 3}}}


@pytest.mark.parametrize(
    "barrier",
    [event(3, "deleted", "a"), event(3, "created", "a"), frame(LOCAL, entity=("task", "a"), merges=True)],
    ids=["deleted", "created", "without a number"],
)
def test_a_frame_that_is_no_update_is_a_barrier_between_updates(barrier: Frame) -> None:
    queue = made(
        "coalesce", [event(1, name="a", x=1), event(2, name="a", y=2), barrier, event(4, name="a", z=4), event(5, name="a")]
    )
    assert queue.relieve(0)
    assert names(queue) == ["lost 1", 2, 3, 5]
    assert [changes(queue)[number] for number in (2, 5)] == [{"x": 1, "y": 2}, {"z": 4}]


def test_one_id_under_two_kinds_is_two_entities() -> None:
    kinds = [
        frame({"type": "", "id": n}, number=n, entity=(kind, "1"), merges=True)
        for n, kind in enumerate(["task", "board"] * 2, 1)
    ]
    queue = made("coalesce", kinds, max_frames=3)
    assert queue.relieve(0)
    assert names(queue) == ["lost 1", 3, 4]


def test_events_without_an_entity_and_answers_are_not_merged() -> None:
    frames = [frame({"id": n, "type": ""}, number=n, merges=True) for n in (1, 2)] + [answer("a"), answer("a")]
    queue = made("coalesce", [*frames, event(5, "created", "b"), event(6, "created", "b")])
    assert not queue.relieve(0)
    assert names(queue) == [1, 2, "a", "a", 5, 6]
    assert not queue.incomplete


def test_when_merging_does_not_help_there_is_no_relief() -> None:
    queue = made("coalesce", events(1, 2, 3, 4, 5))
    assert not queue.relieve(0)
    queue.pop(1)
    assert queue.relieve(0)
    queue.extend(events(6))
    assert not queue.relieve(0)


def test_an_update_costs_one_merge_however_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    merges: list[int] = []

    def counted(older: Frame, newer: Frame) -> Frame:
        merges.append(newer.number)
        return merge(older, newer)

    monkeypatch.setattr("cartows.client.coalescing.merge", counted)
    queue = made("coalesce", [answer("stuck"), *(event(n, name=f"task {n % 10}", x=n) for n in range(1, 101))], max_frames=50)
    assert merges == [], "a client that keeps up pays nothing"
    assert queue.relieve(0)
    for number in range(101, 1001):
        queue.extend([event(number, name=f"task {number % 10}", x=number)])
        assert queue.relieve(0)
    assert merges == list(range(11, 1001)), "each update after the first of its task was merged once"
    assert names(queue) == ["stuck", "lost 1", *range(991, 1001)]


def test_what_was_merged_into_another_is_let_go_of() -> None:
    class Traced(Frame):
        """Can be referred to weakly."""

    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    queue = made("coalesce", [answer("stuck"), *events(1, 2, 3, 4)])
    queue.relieve(0)
    for number in range(5, 500):
        each = Traced(b"{}", number=number, entity=("task", "a"), merges=True)
        alive.add(each)
        queue.extend([each])
        del each
    assert len(alive) == 1
    assert len(queue) == 7

"""What several updates are merged into, and that an event that waits is a snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from cartows import (
    Message,
    MessageError,
    Options,
    TaskEvent,
    new_message,
)
from cartows.broadcaster import Broadcaster
from cartows.sqlalchemy import publish_on_commit
from tests.support.database import Opaque, RecordingHub, Task, update

# What is merged ----------------------------------------------------------------------------------------------------


def test_several_updates_of_one_task_are_merged(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    update(events, {"a": 1, "b": 1}, {"version": 1})
    update(events, {"b": 2, "c": {"x": 2}}, {"version": 2})
    update(events, {"c": {"y": 3}}, {"version": 3})
    session.commit()
    assert hub.data() == [
        {
            "task_id": 1,
            "board_id": "b1",
            "action": "updated",
            "changes": {"a": 1, "b": 2, "c": {"y": 3}},
            "task": {"version": 3},
        }
    ]


def test_several_updates_of_one_project_or_board_are_merged(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    for key in "ab":
        events.broadcast_project_updated("x", {key: 1})
        events.broadcast_board_updated("x", "x", {key: 1})
        update(events, {key: 1}, id="x")
    session.commit()
    assert [type for type, _ in hub.events()] == ["project.updated", "board.updated", "task.updated"]
    assert hub.changes() == [{"a": 1, "b": 1}] * 3


def test_a_merged_update_stands_in_the_place_of_the_last_and_has_its_time(
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    update(events, {"done": False})
    events.broadcast("user.created", "u1")
    before = new_message("x").timestamp
    update(events, {"assignee": "u1"})
    events.broadcast("last")
    session.commit()
    assert [type for type, _ in hub.events()] == ["user.created", "task.updated", "last"]
    assert hub.published[1][0].timestamp >= before


def test_updates_of_two_tasks_are_not_merged(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    for id in (1, 2, 1, 2):
        update(events, {f"of {id}": id}, id=id)
    session.commit()
    assert hub.changes() == [{"of 1": 1}, {"of 2": 2}]


def test_updates_do_not_merge_across_another_event_of_the_same_task(
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    update(events, {"a": 1})
    events.broadcast_task_deleted(1, "b1")
    events.broadcast_task_created(1, "b1", {"a": 0})
    update(events, {"b": 1})
    update(events, {"c": 1})
    session.commit()
    assert [data["action"] for data in hub.data()] == ["updated", "deleted", "created", "updated"]
    assert hub.changes() == [{"a": 1}, None, None, {"b": 1, "c": 1}]


def test_a_move_and_an_update_are_not_merged(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    update(events, {"title": "x"})
    update(events, {"column": 2}, action="moved")
    update(events, {"column": 3, "place": 1}, action="moved")
    update(events, {"title": "y"})
    events.broadcast_board_updated("b1", "p1", {"order": [1, 2]}, action="reordered")
    events.broadcast_board_updated("b1", "p1", {"name": "x"})
    session.commit()
    assert [(data["action"], data["changes"]) for data in hub.data()] == [
        ("updated", {"title": "x"}),
        ("moved", {"column": 3, "place": 1}),
        ("updated", {"title": "y"}),
        ("reordered", {"order": [1, 2]}),
        ("updated", {"name": "x"}),
    ]


def test_updates_for_two_audiences_are_not_merged(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    update(events, {"a": 1})
    update(events, {"b": 1}, board="b2")
    session.commit()
    assert hub.changes() == [{"a": 1}, {"b": 1}]
    assert [audience.rooms for _, audience in hub.published] == [(("board_id", "b1"),), (("board_id", "b2"),)]


@pytest.mark.parametrize(
    ("first", "second"), [({"a": 1}, None), (None, {"b": 1}), ({"a": 1}, ["b"]), (["a"], {"b": 1}), (["a"], ["b"])]
)
def test_updates_whose_changes_cannot_be_merged_are_not_merged(
    session: Session, hub: RecordingHub, events: Broadcaster, first: Any, second: Any
) -> None:
    update(events, first, {"version": 1})
    update(events, second, {"version": 2})
    session.commit()
    assert hub.changes() == [first, second]


def test_of_updates_without_changes_the_last_is_sent(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    update(events, None, {"version": 1})
    update(events, None, {"version": 2})
    session.commit()
    assert [data["task"] for data in hub.data()] == [{"version": 2}]


def test_updates_that_would_be_too_large_when_merged_are_not_merged(session: Session) -> None:
    hub = RecordingHub(options=Options(send_queue_bytes=2000))
    events = publish_on_commit(session, hub)
    for key in "abcab":
        update(events, {key: "x" * 800})
    session.commit()
    assert [sorted(each) for each in hub.changes()] == [["a", "b"], ["a", "c"], ["b"]]


def test_an_event_of_the_apps_own_type_is_not_merged_with_another_type(
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    for type in ("task.updated", "assignee.updated", "mention.added", "mention.added"):
        events.broadcast_message(Message(type=type, data=TaskEvent(task_id=1, board_id=1, action="updated", changes={type: 1})))
    for _ in range(2):
        events.broadcast("comment.updated", {"changes": {"a": 1}})
    session.commit()
    assert len(hub.published) == 6


def test_a_merged_update_can_still_be_coalesced(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    update(events, {"a": 1})
    update(events, {"b": 1})
    session.commit()
    ((message, _),) = hub.published
    assert isinstance(message.data, TaskEvent) and message.data.task_id == 1


# An event that waits is a snapshot ---------------------------------------------------------------------------------


def test_an_object_that_changes_after_the_call_changes_no_event(
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    given: dict[str, Any] = {"deep": {"list": [1]}}
    message = Message(type="notice", data=given)
    empty: dict[str, Any] = {}
    event = TaskEvent(task_id="own", board_id=1, action="updated", changes=given)
    typed = Message(type="task.updated", data=event)
    events.broadcast("own", given)
    events.broadcast("own", empty)
    events.broadcast_message(message)
    events.broadcast_to_filtered(message, "board_id", "b1")
    events.broadcast_message(typed)
    events.broadcast_task_created("t", "b", given)
    update(events, given, given)
    events.broadcast_project_created("p", given)
    events.broadcast_project_updated("q", given, given)
    events.broadcast_board_updated("b", "p", given, given)
    given["deep"]["list"].append(2)
    given["new"] = empty["new"] = 1
    event.changes = event.board_id = "changed"
    message.type = typed.type = "changed"
    session.commit()
    published = json.dumps(hub.events())
    assert len(hub.published) == 10
    assert "new" not in published and "2" not in published and "changed" not in published
    assert published.count('{"deep": {"list": [1]}}') == 12


def test_an_event_equals_the_hubs_own(session: Session) -> None:
    hub = RecordingHub(enc_hook=lambda value: value.text)
    hub.project_of_board = lambda board: "p9"
    events = publish_on_commit(session, hub)
    calls: list[Callable[[Broadcaster], object]] = [
        lambda to: to.broadcast("x", {"odd": Opaque("y"), "number": 1.5, "text": "ü"}, filters={"board_id": [1, 2]}),
        lambda to: to.broadcast("x"),
        lambda to: to.broadcast("x", 0),
        lambda to: to.broadcast_message(new_message("x", [])),
        lambda to: to.broadcast_to_filtered(new_message("x", ""), "board_id", 1),
        lambda to: to.broadcast_task_created(1, 2, {"odd": Opaque("y")}),
        lambda to: to.broadcast_task_updated(1, 2, {"odd": Opaque("y")}, {"a": None}),
        lambda to: to.broadcast_task_deleted(1, 2),
        lambda to: to.broadcast_project_created(1, {}),
        lambda to: to.broadcast_project_updated(1, {}, {}),
        lambda to: to.broadcast_board_updated(1, None, {"a": 1}, {"odd": Opaque("y")}, action="reordered"),
    ]
    for call in calls:
        call(hub)
    own = [(message.type, data, audience) for (message, audience), data in zip(hub.published, hub.data(), strict=True)]
    hub.published.clear()
    for call in calls:
        call(events)
    session.commit()
    assert [(m.type, data, audience) for (m, audience), data in zip(hub.published, hub.data(), strict=True)] == own


def test_what_cannot_be_sent_raises_in_the_caller(session: Session) -> None:
    hub = RecordingHub(options=Options(send_queue_bytes=2000))
    events = publish_on_commit(session, hub)
    with pytest.raises(MessageError, match=r"data\.changes\['title'\]"):
        update(events, {"title": Opaque("x")})
    with pytest.raises(MessageError, match="CARTOWS_SEND_QUEUE_BYTES=2000"):
        update(events, {"title": "x" * 2000})
    with pytest.raises(ValueError, match="'team'"):
        events.broadcast("x", filters={"team": 1})
    with pytest.raises(ValueError, match="action"):
        update(events, {}, action="gone")
    assert not session.in_transaction()
    session.commit()
    assert not hub.calls


def test_the_encoding_is_that_of_the_moment_of_the_call(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    """The extension sets its hub's JSON encoding when it is initialised with the app, possibly after events were made."""
    hub.enc_hook = lambda value: value.text
    odd = Opaque("then")
    update(events, {"a": odd}, {"odd": odd})
    odd.text = "now"
    update(events, {"b": odd}, {"odd": odd})
    session.commit()
    assert [(data["changes"], data["task"]) for data in hub.data()] == [({"a": "then", "b": "now"}, {"odd": "now"})]


def test_nothing_asks_the_database_after_the_commit(engine: sa.Engine, session: Session, hub: RecordingHub) -> None:
    """The rows are expired by then: an event that still referred to one would load it."""
    hub.enc_hook = lambda task: {"title": task.title}
    events = publish_on_commit(session, hub)
    task = Task(id=1, title="x")
    session.add(task)
    session.flush()
    update(events, {"task": task}, task)
    update(events, {"again": task}, task)
    after: list[str] = []
    sa.event.listen(session, "after_commit", lambda session: after.append("committed"))

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if after:
            after.append(statement)

    session.commit()
    assert after == ["committed"]
    assert hub.changes() == [{"task": {"title": "x"}, "again": {"title": "x"}}]

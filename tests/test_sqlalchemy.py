"""Events on commit: what a transaction's end does to them, what becomes one, and that the app's commit never fails for them."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, SessionTransaction, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool, StaticPool

from cartows import (
    CartoWS,
    CartowsError,
    Hub,
    HubClosed,
    Message,
    MessageError,
    Options,
    Publisher,
    PublishResult,
    TaskEvent,
    new_message,
)
from cartows.broadcaster import Broadcaster
from cartows.rooms import Audience
from cartows.sqlalchemy import publish_on_commit

# How long a test waits for another thread, in seconds.
AT_MOST = 10.0


class Base(DeclarativeBase):
    pass


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(default="")
    parent: Mapped[int | None] = mapped_column(sa.ForeignKey("tasks.id", deferrable=True, initially="DEFERRED"))


class Recording(Hub):
    """Keep what is published instead of sending it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.published: list[tuple[Message, Audience]] = []
        self.raises: Exception | None = None
        self.asked = 0

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        self.asked += 1
        if self.raises is not None:
            raise self.raises
        self.published.append((message, audience))
        return PublishResult(True, "queued", f"e.{len(self.published)}")

    def events(self) -> list[tuple[str, Any]]:
        """Return the type and the data of what was published, as a client reads them."""
        return [(message.type, json.loads(message.encode(self.enc_hook)).get("data")) for message, _ in self.published]

    def told(self) -> list[Any]:
        """Return the data of what was published."""
        return [data for _, data in self.events()]


def database(url: str, **arguments: Any) -> sa.Engine:
    """Return an empty SQLite database in which savepoints and foreign keys are what they are elsewhere."""
    engine = sa.create_engine(url, **arguments)

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return database(f"sqlite:///{tmp_path / 'tasks.db'}", poolclass=NullPool)


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@pytest.fixture
def hub() -> Recording:
    return Recording()


@pytest.fixture
def events(session: Session, hub: Recording) -> Broadcaster:
    return publish_on_commit(session, hub)


def update(
    events: Broadcaster, changes: Any, task: Any = None, *, id: Any = 1, board: Any = "b1", action: str = "updated"
) -> None:
    events.broadcast_task_updated(id, board, changes, task, action=action)


def changes(hub: Recording) -> list[Any]:
    return [data.get("changes") for data in hub.told()]


# The end of a transaction -----------------------------------------------------------------------------------------


def test_an_event_is_sent_after_the_commit_and_not_before(engine: sa.Engine, session: Session) -> None:
    seen: list[int] = []

    class Looking(Recording):
        def publish(self, message: Message, audience: Audience) -> PublishResult:
            with Session(engine) as another:
                seen.append(another.query(Task).count())
            return super().publish(message, audience)

    hub = Looking()
    events = publish_on_commit(session, hub)
    session.add(Task(id=1))
    session.flush()
    events.broadcast_task_created(1, "b1", {"title": "x"})
    session.execute(sa.text("SELECT 1"))
    assert not hub.published
    session.commit()
    assert hub.events() == [("task.created", {"task_id": 1, "board_id": "b1", "action": "created", "task": {"title": "x"}})]
    assert seen == [1]


def test_a_commit_sends_without_holding_the_databases_connection(tmp_path: Path) -> None:
    engine = database(f"sqlite:///{tmp_path / 'one.db'}", poolclass=sa.QueuePool, pool_size=1, max_overflow=0)
    out: list[int] = []

    class Looking(Recording):
        def publish(self, message: Message, audience: Audience) -> PublishResult:
            assert isinstance(engine.pool, sa.QueuePool)
            out.append(engine.pool.checkedout())
            return super().publish(message, audience)

    with Session(engine) as session:
        session.add(Task(id=1))
        publish_on_commit(session, Looking()).broadcast("x")
        session.commit()
    engine.dispose()
    assert out == [0]


def test_events_are_sent_in_the_order_in_which_they_were_broadcast(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    events.broadcast("a", 1)
    with session.begin_nested():
        events.broadcast("b", 2)
        with session.begin_nested():
            events.broadcast_project_created("p1", {})
        events.broadcast("c", 3)
    events.broadcast_task_deleted("t1", "b1")
    session.commit()
    assert [type for type, _ in hub.events()] == ["a", "b", "project.created", "c", "task.deleted"]


def test_a_rollback_forgets(session: Session, hub: Recording, events: Broadcaster) -> None:
    session.add(Task(id=1))
    events.broadcast("lost")
    session.rollback()
    events.broadcast("kept")
    session.commit()
    assert [type for type, _ in hub.events()] == ["kept"]


def test_a_rollback_forgets_even_where_the_database_was_not_used(session: Session, hub: Recording, events: Broadcaster) -> None:
    events.broadcast("lost")
    session.rollback()
    session.add(Task(id=1))
    session.commit()
    assert not hub.asked


@pytest.mark.parametrize("end", [Session.close, Session.invalidate])
def test_a_session_that_is_closed_without_a_commit_forgets(
    session: Session, hub: Recording, events: Broadcaster, end: Callable[[Session], None]
) -> None:
    session.add(Task(id=1))
    session.begin_nested()
    events.broadcast("lost")
    end(session)
    session.commit()
    assert not hub.asked
    assert not session.info


def test_a_second_commit_sends_nothing_again(session: Session, hub: Recording, events: Broadcaster) -> None:
    events.broadcast("once")
    session.commit()
    session.commit()
    session.add(Task(id=1))
    session.commit()
    assert hub.asked == 1
    assert not session.info


def test_a_commit_that_fails_at_its_flush_sends_nothing(session: Session, hub: Recording, events: Broadcaster) -> None:
    session.add(Task(id=1))
    session.commit()
    session.expunge_all()
    session.add(Task(id=1))
    events.broadcast("lost")
    with pytest.raises(sa.exc.IntegrityError):
        session.commit()
    with pytest.raises(sa.exc.PendingRollbackError):
        session.commit()
    assert not hub.asked
    session.rollback()
    session.commit()
    assert not hub.asked


def test_a_commit_that_the_database_refuses_sends_nothing(session: Session, hub: Recording, events: Broadcaster) -> None:
    session.add(Task(id=1, parent=99))
    with session.begin_nested():
        events.broadcast("lost with the savepoint it was in")
    session.flush()
    events.broadcast("lost")
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
        session.commit()
    assert not hub.asked
    session.rollback()
    session.add(Task(id=1))
    session.commit()
    assert not hub.asked


def test_a_commit_that_is_tried_again_sends(session: Session, hub: Recording, events: Broadcaster) -> None:
    session.add(Task(id=1, parent=99))
    events.broadcast("kept")
    session.flush()
    tries: list[None] = []

    @sa.event.listens_for(session, "before_commit")
    def _(session: Session) -> None:
        tries.append(None)
        if len(tries) == 1:
            raise RuntimeError("not yet")

    with pytest.raises(RuntimeError):
        session.commit()
    assert not hub.asked
    session.execute(sa.update(Task).values(parent=None))
    session.commit()
    assert [type for type, _ in hub.events()] == ["kept"]


def test_what_a_flush_broadcasts_is_sent_with_its_transaction(session: Session, hub: Recording, events: Broadcaster) -> None:
    @sa.event.listens_for(session, "after_flush")
    def _(session: Session, context: Any) -> None:
        for task in session.new:
            events.broadcast("new", task.id)
            with session.begin_nested():
                events.broadcast("within", task.id)

    session.add(Task(id=1))
    session.commit()
    with session.begin_nested() as savepoint:
        session.add(Task(id=2))
        session.flush()
        savepoint.rollback()
    session.add(Task(id=3))
    session.commit()
    assert hub.told() == [1, 1, 3, 3]


def test_what_is_broadcast_before_the_commit_flushes_is_sent_with_it(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    @sa.event.listens_for(session, "before_commit")
    def _(session: Session) -> None:
        if not session.in_nested_transaction():
            events.broadcast("last")

    session.add(Task(id=1))
    session.commit()
    assert [type for type, _ in hub.events()] == ["last"]


def test_a_block_that_begins_and_commits_by_itself_sends(engine: sa.Engine, hub: Recording) -> None:
    with sessionmaker(engine).begin() as session:
        publish_on_commit(session, hub).broadcast("kept")
    assert hub.asked == 1
    with pytest.raises(ZeroDivisionError), sessionmaker(engine).begin() as session:
        publish_on_commit(session, hub).broadcast("lost")
        _ = 1 / 0
    assert hub.asked == 1


# Savepoints -------------------------------------------------------------------------------------------------------


def test_a_savepoint_that_is_released_sends_nothing_before_the_root_commits(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    with session.begin_nested():
        with session.begin_nested():
            events.broadcast("inner")
        events.broadcast("outer")
    assert not hub.asked
    session.commit()
    assert [type for type, _ in hub.events()] == ["inner", "outer"]


def test_a_savepoint_that_was_released_goes_with_the_rollback_of_the_root(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    with session.begin_nested():
        events.broadcast("lost")
    session.rollback()
    session.commit()
    assert not hub.asked


def test_a_savepoint_that_is_rolled_back_forgets_its_events_and_no_others(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    events.broadcast("before")
    savepoint = session.begin_nested()
    events.broadcast("lost")
    with session.begin_nested():
        events.broadcast("lost as well")
    savepoint.rollback()
    events.broadcast("after")
    session.commit()
    assert [type for type, _ in hub.events()] == ["before", "after"]


def test_a_savepoint_that_ends_by_an_error_forgets_its_events(session: Session, hub: Recording, events: Broadcaster) -> None:
    session.add(Task(id=1))
    session.flush()
    session.expunge_all()
    events.broadcast("kept")
    with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
        events.broadcast("lost")
        session.add(Task(id=1))
        session.flush()
    session.commit()
    assert [type for type, _ in hub.events()] == ["kept"]


def test_an_update_from_before_a_savepoint_is_as_it_was_when_that_is_rolled_back(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    update(events, {"a": 1})
    savepoint = session.begin_nested()
    update(events, {"a": 2, "b": 2})
    savepoint.rollback()
    update(events, {"c": 3})
    session.commit()
    assert changes(hub) == [{"a": 1, "c": 3}]


def test_updates_merge_across_savepoints_that_were_released(session: Session, hub: Recording, events: Broadcaster) -> None:
    for key in "abc":
        with session.begin_nested():
            update(events, {key: 1})
    session.commit()
    assert changes(hub) == [{"a": 1, "b": 1, "c": 1}]


class Model:
    """What a session should do, told with lists: one for each transaction that is open."""

    def __init__(self) -> None:
        self.open: list[list[int]] = [[]]
        self.sent: list[int] = []

    def release(self, depth: int) -> None:
        while len(self.open) > depth:
            events = self.open.pop()
            self.open[-1] += events

    def undo(self, depth: int) -> None:
        del self.open[depth:]

    def commit(self) -> None:
        self.release(1)
        self.sent += self.open[0]
        self.open = [[]]

    def rollback(self) -> None:
        self.open = [[]]


@pytest.fixture(scope="module")
def memory() -> Iterator[sa.Engine]:
    engine = database("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    yield engine
    engine.dispose()


STEPS = st.sampled_from(["write", "write", "event", "savepoint", "release", "undo", "fail", "commit", "rollback", "close"])


@settings(deadline=None)
@given(st.lists(st.tuples(STEPS, st.integers(0, 3)), max_size=30))
def test_whatever_the_order_what_is_sent_is_what_was_committed(memory: sa.Engine, steps: list[tuple[str, int]]) -> None:
    """A row of the same number is written with each event: the database is the second model."""
    hub, model, number = Recording(), Model(), 0
    savepoints: list[SessionTransaction] = []
    with Session(memory) as session:
        session.execute(sa.delete(Task))
        session.commit()
        events = publish_on_commit(session, hub)
        for step, choice in [*steps, ("commit", 0)]:
            at = choice % len(savepoints) if savepoints else 0
            if step in ("write", "event"):
                number += 1
                session.add(Task(id=number))
                if step == "write":
                    session.flush()
                events.broadcast("event", number)
                model.open[-1].append(number)
            elif step == "savepoint":
                savepoints.append(session.begin_nested())
                model.open.append([])
            elif step in ("release", "undo") and savepoints:
                end = savepoints[at]
                del savepoints[at:]
                if step == "release":
                    end.commit()
                    model.release(at + 1)
                else:
                    end.rollback()
                    model.undo(at + 1)
            elif step == "fail":
                events.broadcast("event", -1)
                with pytest.raises(sa.exc.OperationalError):
                    session.execute(sa.text("no SQL"))
                if savepoints:
                    savepoints.pop().rollback()
                    model.undo(len(savepoints) + 1)
                else:
                    session.rollback()
                    model.rollback()
            elif step in ("commit", "rollback", "close"):
                savepoints.clear()
                getattr(session, step)()
                model.commit() if step == "commit" else model.rollback()
            assert hub.told() == model.sent, step
        assert list(session.scalars(sa.select(Task.id).order_by(Task.id))) == sorted(model.sent)


# What becomes one -------------------------------------------------------------------------------------------------


def test_several_updates_of_one_task_become_one(session: Session, hub: Recording, events: Broadcaster) -> None:
    update(events, {"a": 1, "b": 1}, {"version": 1})
    update(events, {"b": 2, "c": {"x": 2}}, {"version": 2})
    update(events, {"c": {"y": 3}}, {"version": 3})
    session.commit()
    assert hub.told() == [
        {
            "task_id": 1,
            "board_id": "b1",
            "action": "updated",
            "changes": {"a": 1, "b": 2, "c": {"y": 3}},
            "task": {"version": 3},
        }
    ]


def test_several_updates_of_one_project_or_board_become_one(session: Session, hub: Recording, events: Broadcaster) -> None:
    for key in "ab":
        events.broadcast_project_updated("x", {key: 1})
        events.broadcast_board_updated("x", "x", {key: 1})
        update(events, {key: 1}, id="x")
    session.commit()
    assert [type for type, _ in hub.events()] == ["project.updated", "board.updated", "task.updated"]
    assert changes(hub) == [{"a": 1, "b": 1}] * 3


def test_a_merged_update_stands_in_the_place_of_the_last_and_has_its_time(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    update(events, {"done": False})
    events.broadcast("user.created", "u1")
    before = new_message("x").timestamp
    update(events, {"assignee": "u1"})
    events.broadcast("last")
    session.commit()
    assert [type for type, _ in hub.events()] == ["user.created", "task.updated", "last"]
    assert hub.published[1][0].timestamp >= before


def test_updates_of_two_tasks_stay_two(session: Session, hub: Recording, events: Broadcaster) -> None:
    for id in (1, 2, 1, 2):
        update(events, {f"of {id}": id}, id=id)
    session.commit()
    assert changes(hub) == [{"of 1": 1}, {"of 2": 2}]


def test_updates_do_not_merge_across_another_event_of_the_same_task(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    update(events, {"a": 1})
    events.broadcast_task_deleted(1, "b1")
    events.broadcast_task_created(1, "b1", {"a": 0})
    update(events, {"b": 1})
    update(events, {"c": 1})
    session.commit()
    assert [data["action"] for data in hub.told()] == ["updated", "deleted", "created", "updated"]
    assert changes(hub) == [{"a": 1}, None, None, {"b": 1, "c": 1}]


def test_a_move_and_an_update_stay_two(session: Session, hub: Recording, events: Broadcaster) -> None:
    update(events, {"title": "x"})
    update(events, {"lane": 2}, action="moved")
    update(events, {"lane": 3, "place": 1}, action="moved")
    update(events, {"title": "y"})
    events.broadcast_board_updated("b1", "p1", {"order": [1, 2]}, action="reordered")
    events.broadcast_board_updated("b1", "p1", {"name": "x"})
    session.commit()
    assert [(data["action"], data["changes"]) for data in hub.told()] == [
        ("updated", {"title": "x"}),
        ("moved", {"lane": 3, "place": 1}),
        ("updated", {"title": "y"}),
        ("reordered", {"order": [1, 2]}),
        ("updated", {"name": "x"}),
    ]


def test_updates_for_two_audiences_stay_two(session: Session, hub: Recording, events: Broadcaster) -> None:
    update(events, {"a": 1})
    update(events, {"b": 1}, board="b2")
    session.commit()
    assert changes(hub) == [{"a": 1}, {"b": 1}]
    assert [audience.rooms for _, audience in hub.published] == [(("board_id", "b1"),), (("board_id", "b2"),)]


@pytest.mark.parametrize(
    ("first", "second"), [({"a": 1}, None), (None, {"b": 1}), ({"a": 1}, ["b"]), (["a"], {"b": 1}), (["a"], ["b"])]
)
def test_updates_whose_changes_cannot_be_laid_one_on_the_other_stay_two(
    session: Session, hub: Recording, events: Broadcaster, first: Any, second: Any
) -> None:
    update(events, first, {"version": 1})
    update(events, second, {"version": 2})
    session.commit()
    assert changes(hub) == [first, second]


def test_of_updates_without_changes_the_last_is_sent(session: Session, hub: Recording, events: Broadcaster) -> None:
    update(events, None, {"version": 1})
    update(events, None, {"version": 2})
    session.commit()
    assert [data["task"] for data in hub.told()] == [{"version": 2}]


def test_updates_that_would_be_too_large_together_stay_two(session: Session) -> None:
    hub = Recording(options=Options(send_queue_bytes=2000))
    events = publish_on_commit(session, hub)
    for key in "abcab":
        update(events, {key: "x" * 800})
    session.commit()
    assert [sorted(each) for each in changes(hub)] == [["a", "b"], ["a", "c"], ["b"]]


def test_an_event_of_the_apps_own_type_is_not_merged_with_another_type(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    for type in ("task.updated", "assignee.updated", "mention.added", "mention.added"):
        events.broadcast_message(Message(type=type, data=TaskEvent(task_id=1, board_id=1, action="updated", changes={type: 1})))
    for _ in range(2):
        events.broadcast("comment.updated", {"changes": {"a": 1}})
    session.commit()
    assert len(hub.published) == 6


def test_what_a_slow_client_would_be_spared_stays_known(session: Session, hub: Recording, events: Broadcaster) -> None:
    update(events, {"a": 1})
    update(events, {"b": 1})
    session.commit()
    ((message, _),) = hub.published
    assert isinstance(message.data, TaskEvent) and message.data.task_id == 1


# What waits is a snapshot -----------------------------------------------------------------------------------------


class Odd:
    """What JSON does not know."""

    def __init__(self, text: str) -> None:
        self.text = text


def test_an_object_that_changes_after_the_call_changes_nothing(session: Session, hub: Recording, events: Broadcaster) -> None:
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
    said = json.dumps(hub.events())
    assert len(hub.published) == 10
    assert "new" not in said and "2" not in said and "changed" not in said
    assert said.count('{"deep": {"list": [1]}}') == 12


def test_an_event_says_what_the_hubs_own_would_say(session: Session) -> None:
    hub = Recording(enc_hook=lambda value: value.text)
    hub.project_of_board = lambda board: "p9"
    events = publish_on_commit(session, hub)
    calls: list[Callable[[Broadcaster], object]] = [
        lambda to: to.broadcast("x", {"odd": Odd("y"), "number": 1.5, "text": "ü"}, filters={"board_id": [1, 2]}),
        lambda to: to.broadcast("x"),
        lambda to: to.broadcast("x", 0),
        lambda to: to.broadcast_message(new_message("x", [])),
        lambda to: to.broadcast_to_filtered(new_message("x", ""), "board_id", 1),
        lambda to: to.broadcast_task_created(1, 2, {"odd": Odd("y")}),
        lambda to: to.broadcast_task_updated(1, 2, {"odd": Odd("y")}, {"a": None}),
        lambda to: to.broadcast_task_deleted(1, 2),
        lambda to: to.broadcast_project_created(1, {}),
        lambda to: to.broadcast_project_updated(1, {}, {}),
        lambda to: to.broadcast_board_updated(1, None, {"a": 1}, {"odd": Odd("y")}, action="reordered"),
    ]
    for call in calls:
        call(hub)
    own = [(message.type, data, audience) for (message, audience), data in zip(hub.published, hub.told(), strict=True)]
    hub.published.clear()
    for call in calls:
        call(events)
    session.commit()
    assert [(m.type, data, audience) for (m, audience), data in zip(hub.published, hub.told(), strict=True)] == own


def test_what_cannot_be_sent_is_refused_in_the_caller(session: Session) -> None:
    hub = Recording(options=Options(send_queue_bytes=2000))
    events = publish_on_commit(session, hub)
    with pytest.raises(MessageError, match=r"data\.changes\['title'\]"):
        update(events, {"title": Odd("x")})
    with pytest.raises(MessageError, match="CARTOWS_SEND_QUEUE_BYTES=2000"):
        update(events, {"title": "x" * 2000})
    with pytest.raises(ValueError, match="'team'"):
        events.broadcast("x", filters={"team": 1})
    with pytest.raises(ValueError, match="action"):
        update(events, {}, action="gone")
    assert not session.in_transaction()
    session.commit()
    assert not hub.asked


def test_the_encoding_is_that_of_the_moment_of_the_call(session: Session, hub: Recording, events: Broadcaster) -> None:
    """The extension teaches its hub the app's JSON when it is given the app, maybe after events were made."""
    hub.enc_hook = lambda value: value.text
    odd = Odd("then")
    update(events, {"a": odd}, {"odd": odd})
    odd.text = "now"
    update(events, {"b": odd}, {"odd": odd})
    session.commit()
    assert [(data["changes"], data["task"]) for data in hub.told()] == [({"a": "then", "b": "now"}, {"odd": "now"})]


def test_nothing_asks_the_database_after_the_commit(engine: sa.Engine, session: Session, hub: Recording) -> None:
    """The rows are expired by then: an event that still held one would load it."""
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
    assert changes(hub) == [{"task": {"title": "x"}, "again": {"title": "x"}}]


# The hub's own knowledge ------------------------------------------------------------------------------------------


def test_the_hubs_project_of_board_counts_though_it_was_named_later(
    session: Session, hub: Recording, events: Broadcaster
) -> None:
    assert events.project_of_board is None
    hub.project_of_board = {"b1": "p1"}.get
    assert events.project_of_board is hub.project_of_board
    update(events, {"a": 1})
    session.commit()
    ((message, audience),) = hub.published
    assert message.data.project_id == "p1"
    assert audience.rooms == (("project_id", "p1"), ("board_id", "b1"))
    with pytest.raises(AttributeError):
        events.project_of_board = None


def test_a_missing_project_is_told_once_for_the_hub_and_its_sessions(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    class Asked(Recording):
        def _has_filter(self, key: str) -> bool:
            return True

    hub = Asked()
    hub.broadcast_task_deleted(1, "b1")
    for _ in range(2):
        with Session(engine) as session:
            publish_on_commit(session, hub).broadcast_task_deleted(1, "b1")
            session.commit()
    assert len(hub.published) == 3
    assert len(caplog.records) == 1


def test_the_filter_keys_are_the_hubs(session: Session) -> None:
    hub = Recording()
    events = publish_on_commit(session, hub)
    hub.adopt_options(Options(filter_keys=("team",)))
    events.broadcast("x", filters={"team": "red"})
    assert set(events.filter_keys) == {"team", "board_id", "project_id"}
    assert events.logger is hub.logger


def test_a_result_says_no_more_than_that_it_was_taken(session: Session, events: Broadcaster) -> None:
    result = events.broadcast("x")
    assert result == PublishResult(True, None, None, None)
    result.raise_for_rejected()


# After the commit nothing is raised -------------------------------------------------------------------------------


def test_a_hub_that_was_shut_down_is_told_once_for_a_commit_which_succeeds(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    events = publish_on_commit(session, hub)
    hub.shutdown()
    for id in range(3):
        session.add(Task(id=id + 1))
        update(events, {"a": 1}, id=id)
    session.commit()
    assert session.query(Task).count() == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "shut down" in caplog.messages[0] and "'task.updated'" in caplog.messages[0]


def test_one_hub_that_was_shut_down_does_not_silence_another(
    session: Session, hub: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    closed = Recording()
    closed.raises = HubClosed("closed")
    for each in (closed, hub, closed, hub):
        publish_on_commit(session, each).broadcast("x")
    session.commit()
    assert (closed.asked, hub.asked, len(caplog.records)) == (1, 2, 1)


def test_a_publish_that_raises_is_logged_and_the_rest_is_sent(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    class Stumbling(Recording):
        def publish(self, message: Message, audience: Audience) -> PublishResult:
            if message.type == "bad":
                raise RuntimeError("stumbled")
            return super().publish(message, audience)

    hub = Stumbling()
    events = publish_on_commit(session, hub)
    for type in ("a", "bad", "b"):
        events.broadcast(type)
    session.commit()
    assert [type for type, _ in hub.events()] == ["a", "b"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "'bad'" in caplog.messages[0]


def test_what_a_hub_rejects_is_logged_by_the_hub_alone(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    class Full(Recording):
        def publish(self, message: Message, audience: Audience) -> PublishResult:
            return self._reject(message.type, "the queue stayed full")

    events = publish_on_commit(session, Full())
    for id in range(3):
        update(events, {}, id=id)
    session.commit()
    assert len(caplog.records) == 1 and "the queue stayed full" in caplog.messages[0]


def test_a_broadcast_that_no_commit_can_follow_is_refused(engine: sa.Engine, session: Session, hub: Recording) -> None:
    events = publish_on_commit(session, hub)
    told: list[str] = []

    @sa.event.listens_for(session, "after_commit")
    def _(session: Session) -> None:
        with pytest.raises(CartowsError, match=r"after_commit.*the hub itself") as raised:
            events.broadcast("late")
        told.append(str(raised.value))

    session.add(Task(id=1))
    session.commit()
    assert len(told) == 1 and "'late'" in told[0]
    session.expunge_all()
    session.add(Task(id=1))
    with pytest.raises(sa.exc.IntegrityError):
        session.flush()
    with pytest.raises(CartowsError, match="rollback"):
        events.broadcast("x")
    session.rollback()
    with Session(engine, autobegin=False) as explicit:
        waiting = publish_on_commit(explicit, hub)
        with pytest.raises(CartowsError, match=r"session\.begin\(\)"):
            waiting.broadcast("x")
        with explicit.begin():
            waiting.broadcast("kept")
    assert [type for type, _ in hub.events()] == ["kept"]


# Several hubs, sessions and threads -------------------------------------------------------------------------------


def test_each_hub_gets_its_own_events_and_merges_them_by_themselves(session: Session) -> None:
    hubs = Recording(), Recording()
    for round in range(2):
        for number, hub in enumerate(hubs):
            update(publish_on_commit(session, hub), {f"{number}.{round}": 1})
    session.commit()
    assert [changes(hub) for hub in hubs] == [[{"0.0": 1, "0.1": 1}], [{"1.0": 1, "1.1": 1}]]


def test_asking_twice_for_the_same_sends_once(engine: sa.Engine, hub: Recording) -> None:
    current = scoped_session(sessionmaker(engine))
    first, second = publish_on_commit(current, hub), publish_on_commit(current, hub)
    first.broadcast("a")
    second.broadcast("b")
    update(first, {"a": 1})
    update(second, {"b": 1})
    current.commit()
    current.remove()
    assert [type for type, _ in hub.events()] == ["a", "b", "task.updated"]


def test_two_sessions_do_not_mix(engine: sa.Engine, hub: Recording) -> None:
    with Session(engine) as one, Session(engine) as other:
        publish_on_commit(one, hub).broadcast("one")
        publish_on_commit(other, hub).broadcast("other")
        one.rollback()
        other.commit()
    assert [type for type, _ in hub.events()] == ["other"]


def test_two_threads_with_a_scoped_session_do_not_mix(engine: sa.Engine, hub: Recording) -> None:
    current = scoped_session(sessionmaker(engine))
    events = publish_on_commit(current, hub)
    queued, committed = threading.Barrier(2), threading.Event()

    def commits() -> None:
        events.broadcast("committed")
        update(events, {"a": 1})
        queued.wait(AT_MOST)
        current.commit()
        committed.set()
        current.remove()

    def rolls_back() -> None:
        events.broadcast("rolled back")
        update(events, {"b": 1})
        queued.wait(AT_MOST)
        assert committed.wait(AT_MOST)
        current.rollback()
        events.broadcast("removed")
        current.remove()
        current.commit()
        current.remove()

    threads = [threading.Thread(target=target) for target in (commits, rolls_back)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(AT_MOST)
    assert [type for type, _ in hub.events()] == ["committed", "task.updated"]
    assert hub.told()[1]["changes"] == {"a": 1}


def test_a_session_is_not_kept_by_what_waits_in_it(engine: sa.Engine, hub: Recording) -> None:
    current = scoped_session(sessionmaker(engine))
    events = publish_on_commit(current, hub)
    events.broadcast("lost")
    update(events, {"a": 1})
    held = weakref.ref(current())
    current.registry.clear()
    gc.collect()
    assert held() is None
    left = Session(engine)
    publish_on_commit(left, hub).broadcast("x")
    left.commit()
    held = weakref.ref(left)
    del left
    gc.collect()
    assert held() is None
    assert len(hub.published) == 1


def test_a_savepoint_that_was_rolled_back_is_not_kept(session: Session, events: Broadcaster) -> None:
    savepoint = session.begin_nested()
    events.broadcast("lost")
    held = weakref.ref(savepoint)
    savepoint.rollback()
    del savepoint
    gc.collect()
    assert held() is None


def test_a_hub_is_not_kept_by_a_session_that_has_ended(session: Session) -> None:
    hub = Hub()
    publish_on_commit(session, hub).broadcast("x")
    session.rollback()
    held = weakref.ref(hub)
    del hub
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("session", [sessionmaker(), Session, None, SQLAlchemy()], ids=["maker", "class", "None", "db"])
def test_what_has_no_current_session_is_refused_in_words(hub: Recording, session: Any) -> None:
    with pytest.raises(TypeError, match=r"db\.session.*scoped_session"):
        publish_on_commit(session, hub)


def test_what_is_no_hub_is_refused_in_words(session: Session) -> None:
    given: list[Any] = [CartoWS(), None, session]
    for each in given:
        with pytest.raises(TypeError, match=r"ws\.hub"):
            publish_on_commit(session, each)


# With other publishers, with Flask, and without SQLAlchemy --------------------------------------------------------


def test_a_publisher_may_stand_in_the_place_of_a_hub(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[str] = []

    def publish(self: Publisher, message: Message, audience: Audience) -> PublishResult:
        published.append(json.loads(message.encode(self.enc_hook))["data"])
        return PublishResult(True, "stored", "e.1")

    monkeypatch.setattr(Publisher, "publish", publish)
    with Publisher("redis://localhost:1/0", enc_hook=lambda odd: odd.text) as publisher:
        events = publish_on_commit(session, publisher)
        events.broadcast("x", Odd("y"))
        session.commit()
    assert published == ["y"]


def test_any_broadcasts_may_stand_in_the_place_of_a_hub(session: Session) -> None:
    class Plain(Broadcaster):
        logger = logging.getLogger("cartows.test")
        published: tuple[str, ...] = ()
        filter_keys = ("team",)
        # Compared by what it holds, and so not hashable.
        __hash__ = None  # type: ignore[assignment]

        def publish(self, message: Message, audience: Audience) -> PublishResult:
            self.published += (message.type,)
            return PublishResult(True)

        def _has_filter(self, key: str) -> bool:
            return False

    plain = Plain()
    events = publish_on_commit(session, plain)
    with pytest.raises(MessageError):
        events.broadcast("x", Odd("y"))
    events.broadcast("x", filters={"team": 1})
    update(events, {"a": 1})
    update(events, {"b": 1})
    session.commit()
    assert plain.published == ("x", "task.updated")


def test_a_hub_sends_them_as_it_sends_its_own(session: Session) -> None:
    hub = Hub(logger=logging.getLogger("cartows.test"))
    events = publish_on_commit(session, hub)
    try:
        events.broadcast("a")
        for key in "abc":
            update(events, {key: 1})
        assert hub.stats()["published"] == 0
        session.commit()
        assert hub.stats()["published"] == 2
    finally:
        hub.shutdown()


def test_a_flask_app_sends_what_its_requests_commit(tmp_path: Path) -> None:
    app = Flask("tasks")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'app.db'}"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"poolclass": NullPool}
    db = SQLAlchemy(model_class=Base)
    db.init_app(app)
    hub = Recording()
    ws = CartoWS(app, hub)
    events = publish_on_commit(db.session, hub)
    ws.project_of_board(lambda board: f"project of {board}")
    with app.app_context():
        db.create_all()
        db.session.add(Task(id=1))
        db.session.commit()

    @app.patch("/tasks/<int:task_id>")
    def patch(task_id: int) -> dict[str, Any]:
        task = db.session.get(Task, task_id)
        assert task is not None
        for title in request.get_json()["titles"]:
            task.title = title
            events.broadcast_task_updated(task.id, "b1", {"title": task.title}, {"title": task.title})
        how = request.args.get("end")
        if how is not None:
            getattr(db.session, how)()
        return {}

    client = app.test_client()
    for end in ("rollback", "commit", "remove"):
        assert client.patch(f"/tasks/1?end={end}", json={"titles": ["x", end]}).status_code == 200
    # The end of the request takes along what nobody has committed.
    assert client.patch("/tasks/1", json={"titles": ["forgotten"]}).status_code == 200
    assert hub.told() == [
        {
            "task_id": 1,
            "board_id": "b1",
            "project_id": "project of b1",
            "action": "updated",
            "changes": {"title": "commit"},
            "task": {"title": "commit"},
        }
    ]


def test_without_sqlalchemy_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cartows.sqlalchemy")
    for name in [name for name in sys.modules if name.partition(".")[0] == "sqlalchemy"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'cartows\[sqlalchemy\]'"):
        importlib.import_module("cartows.sqlalchemy")


def test_an_app_without_it_does_not_pay() -> None:
    program = "import cartows, cartows.auth, sys; print([name for name in sys.modules if 'sqlalchemy' in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


class Stuck(Recording):
    """Take nothing, after all the time there is."""

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        self.asked += 1
        threading.Event().wait(self.options.publish_timeout)
        return PublishResult(False, reason="it is stuck")


def test_a_commit_waits_for_a_hub_that_takes_nothing_as_long_as_one_event_may(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Stuck(options=Options(publish_timeout=0.05))
    events = publish_on_commit(session, hub)
    for number in range(5):
        events.broadcast("x", number)
    session.commit()
    assert hub.asked == 1
    assert caplog.text.count("is not sent either") == 1


def test_what_is_broadcast_behind_the_commit_is_said_to_be_lost(
    session: Session, events: Broadcaster, hub: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    session.commit()
    events.broadcast("x")
    session.close()
    assert "1 events are not sent" in caplog.text
    assert hub.published == []


def test_events_that_wait_cannot_wait_for_another_commit(session: Session, events: Broadcaster) -> None:
    with pytest.raises(TypeError, match="Hub or a Publisher"):
        publish_on_commit(session, events)

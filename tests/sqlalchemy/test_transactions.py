"""What the end of a transaction or a savepoint does to the events that wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker
from sqlalchemy.pool import StaticPool

from cartows import (
    Message,
    PublishResult,
)
from cartows.broadcaster import Broadcaster
from cartows.rooms import Audience
from cartows.sqlalchemy import publish_on_commit
from tests.support.database import RecordingHub, Task, database, update

# The end of a transaction ------------------------------------------------------------------------------------------


def test_an_event_is_sent_after_the_commit_and_not_before(engine: sa.Engine, session: Session) -> None:
    seen: list[int] = []

    class ObservingHub(RecordingHub):
        def publish(self, message: Message, audience: Audience) -> PublishResult:
            with Session(engine) as another:
                seen.append(another.query(Task).count())
            return super().publish(message, audience)

    hub = ObservingHub()
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

    class ObservingHub(RecordingHub):
        def publish(self, message: Message, audience: Audience) -> PublishResult:
            assert isinstance(engine.pool, sa.QueuePool)
            out.append(engine.pool.checkedout())
            return super().publish(message, audience)

    with Session(engine) as session:
        session.add(Task(id=1))
        publish_on_commit(session, ObservingHub()).broadcast("x")
        session.commit()
    engine.dispose()
    assert out == [0]


def test_events_are_sent_in_the_order_in_which_they_were_broadcast(
    session: Session, hub: RecordingHub, events: Broadcaster
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


def test_a_rollback_drops_events(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    session.add(Task(id=1))
    events.broadcast("lost")
    session.rollback()
    events.broadcast("kept")
    session.commit()
    assert [type for type, _ in hub.events()] == ["kept"]


def test_a_rollback_drops_events_even_where_the_database_was_not_used(
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    events.broadcast("lost")
    session.rollback()
    session.add(Task(id=1))
    session.commit()
    assert not hub.calls


@pytest.mark.parametrize("end", [Session.close, Session.invalidate])
def test_a_session_that_is_closed_without_a_commit_drops_its_events(
    session: Session, hub: RecordingHub, events: Broadcaster, end: Callable[[Session], None]
) -> None:
    session.add(Task(id=1))
    session.begin_nested()
    events.broadcast("lost")
    end(session)
    session.commit()
    assert not hub.calls
    assert not session.info


def test_a_second_commit_sends_nothing_again(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    events.broadcast("once")
    session.commit()
    session.commit()
    session.add(Task(id=1))
    session.commit()
    assert hub.calls == 1
    assert not session.info


def test_a_commit_that_fails_at_its_flush_sends_nothing(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    session.add(Task(id=1))
    session.commit()
    session.expunge_all()
    session.add(Task(id=1))
    events.broadcast("lost")
    with pytest.raises(sa.exc.IntegrityError):
        session.commit()
    with pytest.raises(sa.exc.PendingRollbackError):
        session.commit()
    assert not hub.calls
    session.rollback()
    session.commit()
    assert not hub.calls


def test_a_commit_that_the_database_refuses_sends_nothing(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    session.add(Task(id=1, parent=99))
    with session.begin_nested():
        events.broadcast("lost with its savepoint")
    session.flush()
    events.broadcast("lost")
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
        session.commit()
    assert not hub.calls
    session.rollback()
    session.add(Task(id=1))
    session.commit()
    assert not hub.calls


def test_a_commit_that_is_tried_again_sends(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
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
    assert not hub.calls
    session.execute(sa.update(Task).values(parent=None))
    session.commit()
    assert [type for type, _ in hub.events()] == ["kept"]


def test_what_a_flush_broadcasts_is_sent_with_its_transaction(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
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
    assert hub.data() == [1, 1, 3, 3]


def test_what_is_broadcast_before_the_commit_flushes_is_sent_with_it(
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    @sa.event.listens_for(session, "before_commit")
    def _(session: Session) -> None:
        if not session.in_nested_transaction():
            events.broadcast("last")

    session.add(Task(id=1))
    session.commit()
    assert [type for type, _ in hub.events()] == ["last"]


def test_a_block_that_begins_and_commits_by_itself_sends(engine: sa.Engine, hub: RecordingHub) -> None:
    with sessionmaker(engine).begin() as session:
        publish_on_commit(session, hub).broadcast("kept")
    assert hub.calls == 1
    with pytest.raises(ZeroDivisionError), sessionmaker(engine).begin() as session:
        publish_on_commit(session, hub).broadcast("lost")
        _ = 1 / 0
    assert hub.calls == 1


# Savepoints --------------------------------------------------------------------------------------------------------


def test_a_savepoint_that_is_released_sends_nothing_before_the_root_commits(
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    with session.begin_nested():
        with session.begin_nested():
            events.broadcast("inner")
        events.broadcast("outer")
    assert not hub.calls
    session.commit()
    assert [type for type, _ in hub.events()] == ["inner", "outer"]


def test_a_savepoint_that_was_released_goes_with_the_rollback_of_the_root(
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    with session.begin_nested():
        events.broadcast("lost")
    session.rollback()
    session.commit()
    assert not hub.calls


def test_a_savepoint_that_is_rolled_back_drops_its_events_and_no_others(
    session: Session, hub: RecordingHub, events: Broadcaster
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


def test_a_savepoint_that_ends_by_an_error_drops_its_events(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
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
    session: Session, hub: RecordingHub, events: Broadcaster
) -> None:
    update(events, {"a": 1})
    savepoint = session.begin_nested()
    update(events, {"a": 2, "b": 2})
    savepoint.rollback()
    update(events, {"c": 3})
    session.commit()
    assert hub.changes() == [{"a": 1, "c": 3}]


def test_updates_merge_across_savepoints_that_were_released(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    for key in "abc":
        with session.begin_nested():
            update(events, {key: 1})
    session.commit()
    assert hub.changes() == [{"a": 1, "b": 1, "c": 1}]


class Model:
    """What a session should do, with one list for each open transaction."""

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
    hub, model, number = RecordingHub(), Model(), 0
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
            assert hub.data() == model.sent, step
        assert list(session.scalars(sa.select(Task.id).order_by(Task.id))) == sorted(model.sent)

"""Broadcasts that come after the commit instead of before it: what is logged, and what the result says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Session

from cartows.broadcaster import Broadcaster
from cartows.sqlalchemy import publish_on_commit
from tests.support.database import RecordingHub, Task


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_hook_that_runs_after_the_commit_of_a_request_is_told(hub: RecordingHub, caplog: pytest.LogCaptureFixture) -> None:
    """As Flask-Admin's ``after_model_change`` does: it reads the model, which begins a transaction that nothing ends."""
    app = Flask("admin")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)

    class Post(db.Model):  # type: ignore[name-defined,misc]
        id: Any = db.Column(db.Integer, primary_key=True)

    events = publish_on_commit(db.session, hub)
    results = []

    @app.post("/admin/post/new/")
    def create() -> str:
        post = Post()
        db.session.add(post)
        db.session.commit()
        results.append(events.broadcast("post.created", {"id": post.id}))
        return "created"

    with app.app_context():
        db.create_all()
    for _ in range(2):
        assert app.test_client().post("/admin/post/new/").status_code == 200
    assert not hub.published
    assert [(result.accepted, result.status, result.id) for result in results] == [(True, None, None)] * 2
    late, *lost = warnings(caplog)
    assert "'post.created'" in late and "after_model_change" in late and "the hub itself" in late
    assert len(lost) == 2 and all("1 events are not sent" in each and "the hub itself" in each for each in lost)


def test_a_broadcast_after_the_commit_is_logged_at_once_although_the_session_never_ends(
    session: Session, events: Broadcaster, caplog: pytest.LogCaptureFixture
) -> None:
    session.add(Task(id=1))
    session.commit()
    assert session.get(Task, 1) is not None
    events.broadcast("late")
    events.broadcast("late")
    assert len(warnings(caplog)) == 1


def test_the_next_commit_sends_it_all_the_same(session: Session, hub: RecordingHub, events: Broadcaster) -> None:
    session.add(Task(id=1))
    session.commit()
    events.broadcast("late")
    session.add(Task(id=2))
    session.commit()
    assert [type for type, _ in hub.events()] == ["late"]


def _add(session: Session) -> None:
    session.add(Task(id=2))


def _change(session: Session) -> None:
    task = session.get(Task, 1)
    assert task is not None
    task.title = "changed"


def _delete(session: Session) -> None:
    session.delete(session.get(Task, 1))


def _flush(session: Session) -> None:
    session.add(Task(id=2))
    session.flush()


def _update(session: Session) -> None:
    session.execute(sa.update(Task).values(title="changed"))


@pytest.mark.parametrize("change", [_add, _change, _delete, _flush, _update])
def test_an_event_with_a_change_after_an_earlier_commit_is_not_logged(
    session: Session,
    hub: RecordingHub,
    events: Broadcaster,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Session], None],
) -> None:
    session.add(Task(id=1))
    session.commit()
    change(session)
    events.broadcast("in time")
    session.commit()
    assert len(hub.published) == 1
    assert not warnings(caplog)


def test_an_event_of_a_transaction_that_changed_nothing_and_is_not_committed_is_a_warning(
    session: Session, events: Broadcaster, caplog: pytest.LogCaptureFixture
) -> None:
    events.broadcast("lost")
    session.close()
    (text,) = warnings(caplog)
    assert "without a commit" in text and "Broadcast before the commit" in text


def _rolled_back(session: Session, events: Broadcaster) -> None:
    events.broadcast("lost")
    session.rollback()


def _closed_after_a_change(session: Session, events: Broadcaster) -> None:
    session.add(Task(id=1))
    session.flush()
    events.broadcast("lost")
    session.close()


def _closed_before_a_flush(session: Session, events: Broadcaster) -> None:
    session.add(Task(id=1))
    events.broadcast("lost")
    session.close()


@pytest.mark.parametrize("way", [_rolled_back, _closed_after_a_change, _closed_before_a_flush])
def test_an_event_that_is_dropped_with_its_change_is_no_warning(
    session: Session,
    hub: RecordingHub,
    events: Broadcaster,
    caplog: pytest.LogCaptureFixture,
    way: Callable[[Session, Broadcaster], None],
) -> None:
    way(session, events)
    assert not hub.published and not warnings(caplog)
    # What one transaction was does not count for the next one.
    events.broadcast("lost as well")
    session.close()
    assert len(warnings(caplog)) == 1

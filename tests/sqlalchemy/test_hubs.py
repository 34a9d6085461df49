"""Which hub receives the events, with which options, and that no commit fails because of an event."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from cartows import (
    CartoWS,
    CartowsError,
    Hub,
    HubClosed,
    Message,
    MessageError,
    Options,
    Publisher,
    PublisherClosed,
    PublishResult,
)
from cartows.broadcaster import Broadcaster
from cartows.rooms import Audience
from cartows.sqlalchemy import publish_on_commit
from tests.support.database import Base, Opaque, RecordingHub, Task, update

# How long a test waits for another thread, in seconds.
AT_MOST = 10.0


# The hub's own settings --------------------------------------------------------------------------------------------


def test_the_hubs_project_of_board_is_used_even_when_it_was_registered_later(
    session: Session, hub: RecordingHub, events: Broadcaster
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


def test_a_missing_project_is_logged_once_for_the_hub_and_its_sessions(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    class FilteringHub(RecordingHub):
        def _has_filter(self, key: str) -> bool:
            return True

    hub = FilteringHub()
    hub.broadcast_task_deleted(1, "b1")
    for _ in range(2):
        with Session(engine) as session:
            publish_on_commit(session, hub).broadcast_task_deleted(1, "b1")
            session.commit()
    assert len(hub.published) == 3
    assert len(caplog.records) == 1


def test_the_filter_keys_are_the_hubs(session: Session) -> None:
    hub = RecordingHub()
    events = publish_on_commit(session, hub)
    hub.adopt_options(Options(filter_keys=("team",)))
    events.broadcast("x", filters={"team": "red"})
    assert set(events.filter_keys) == {"team", "board_id", "project_id"}
    assert events.logger is hub.logger


def test_a_result_is_accepted_without_status_and_id(session: Session, events: Broadcaster) -> None:
    result = events.broadcast("x")
    assert result == PublishResult(True, None, None, None)
    result.raise_for_rejected()


# Nothing is raised after the commit --------------------------------------------------------------------------------


def test_a_hub_that_was_shut_down_is_logged_once_and_the_commit_succeeds(
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


@pytest.mark.parametrize("error", [HubClosed, PublisherClosed])
def test_one_hub_that_was_shut_down_does_not_silence_another(
    session: Session, hub: RecordingHub, caplog: pytest.LogCaptureFixture, error: type[CartowsError]
) -> None:
    closed = RecordingHub()
    closed.raises = error("closed")
    for each in (closed, hub, closed, hub):
        publish_on_commit(session, each).broadcast("x")
    session.commit()
    assert (closed.calls, hub.calls, len(caplog.records)) == (1, 2, 1)


def test_a_publish_that_raises_is_logged_and_the_rest_is_sent(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    class FailingHub(RecordingHub):
        def publish(self, message: Message, audience: Audience) -> PublishResult:
            if message.type == "bad":
                raise RuntimeError("stumbled")
            return super().publish(message, audience)

    hub = FailingHub()
    events = publish_on_commit(session, hub)
    for type in ("a", "bad", "b"):
        events.broadcast(type)
    session.commit()
    assert [type for type, _ in hub.events()] == ["a", "b"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "'bad'" in caplog.messages[0]


def test_what_a_hub_rejects_is_logged_by_the_hub_alone(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    class FullHub(RecordingHub):
        def publish(self, message: Message, audience: Audience) -> PublishResult:
            return self._reject(message.type, "the queue stayed full")

    events = publish_on_commit(session, FullHub())
    for id in range(3):
        update(events, {}, id=id)
    session.commit()
    assert len(caplog.records) == 1 and "the queue stayed full" in caplog.messages[0]


def test_a_broadcast_that_no_commit_can_follow_raises(engine: sa.Engine, session: Session, hub: RecordingHub) -> None:
    events = publish_on_commit(session, hub)
    errors: list[str] = []

    @sa.event.listens_for(session, "after_commit")
    def _(session: Session) -> None:
        with pytest.raises(CartowsError, match=r"after_commit.*the hub itself") as raised:
            events.broadcast("late")
        errors.append(str(raised.value))

    session.add(Task(id=1))
    session.commit()
    assert len(errors) == 1 and "'late'" in errors[0]
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


# Several hubs, sessions and threads --------------------------------------------------------------------------------


def test_each_hub_gets_its_own_events_and_merges_them_by_themselves(session: Session) -> None:
    hubs = RecordingHub(), RecordingHub()
    for round in range(2):
        for number, hub in enumerate(hubs):
            update(publish_on_commit(session, hub), {f"{number}.{round}": 1})
    session.commit()
    assert [hub.changes() for hub in hubs] == [[{"0.0": 1, "0.1": 1}], [{"1.0": 1, "1.1": 1}]]


def test_two_calls_for_the_same_session_send_once(engine: sa.Engine, hub: RecordingHub) -> None:
    current = scoped_session(sessionmaker(engine))
    first, second = publish_on_commit(current, hub), publish_on_commit(current, hub)
    first.broadcast("a")
    second.broadcast("b")
    update(first, {"a": 1})
    update(second, {"b": 1})
    current.commit()
    current.remove()
    assert [type for type, _ in hub.events()] == ["a", "b", "task.updated"]


def test_two_sessions_do_not_mix(engine: sa.Engine, hub: RecordingHub) -> None:
    with Session(engine) as one, Session(engine) as other:
        publish_on_commit(one, hub).broadcast("one")
        publish_on_commit(other, hub).broadcast("other")
        one.rollback()
        other.commit()
    assert [type for type, _ in hub.events()] == ["other"]


def test_two_threads_with_a_scoped_session_do_not_mix(engine: sa.Engine, hub: RecordingHub) -> None:
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
    assert hub.data()[1]["changes"] == {"a": 1}


def test_a_session_is_not_kept_by_what_waits_in_it(engine: sa.Engine, hub: RecordingHub) -> None:
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
def test_what_has_no_current_session_raises_with_a_remedy(hub: RecordingHub, session: Any) -> None:
    with pytest.raises(TypeError, match=r"db\.session.*scoped_session"):
        publish_on_commit(session, hub)


def test_what_is_not_a_hub_raises_with_a_remedy(session: Session) -> None:
    given: list[Any] = [CartoWS(), None, session]
    for each in given:
        with pytest.raises(TypeError, match=r"ws\.hub"):
            publish_on_commit(session, each)


# With other publishers, with Flask, and without SQLAlchemy ---------------------------------------------------------


def test_a_publisher_may_stand_in_the_place_of_a_hub(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[str] = []

    def publish(self: Publisher, message: Message, audience: Audience) -> PublishResult:
        published.append(json.loads(message.encode(self.enc_hook))["data"])
        return PublishResult(True, "stored", "e.1")

    monkeypatch.setattr(Publisher, "publish", publish)
    with Publisher("redis://localhost:1/0", enc_hook=lambda odd: odd.text) as publisher:
        events = publish_on_commit(session, publisher)
        events.broadcast("x", Opaque("y"))
        session.commit()
    assert published == ["y"]


def test_any_broadcaster_may_stand_in_the_place_of_a_hub(session: Session) -> None:
    class PlainBroadcaster(Broadcaster):
        logger = logging.getLogger("cartows.test")
        published: tuple[str, ...] = ()
        filter_keys = ("team",)
        # Compared by value, and so not hashable.
        __hash__ = None  # type: ignore[assignment]

        def publish(self, message: Message, audience: Audience) -> PublishResult:
            self.published += (message.type,)
            return PublishResult(True)

        def _has_filter(self, key: str) -> bool:
            return False

    plain = PlainBroadcaster()
    events = publish_on_commit(session, plain)
    with pytest.raises(MessageError):
        events.broadcast("x", Opaque("y"))
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
    hub = RecordingHub()
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
        end = request.args.get("end")
        if end is not None:
            getattr(db.session, end)()
        return {}

    client = app.test_client()
    for end in ("rollback", "commit", "remove"):
        assert client.patch(f"/tasks/1?end={end}", json={"titles": ["x", end]}).status_code == 200
    # The end of the request drops what was not committed.
    assert client.patch("/tasks/1", json={"titles": ["dropped"]}).status_code == 200
    assert hub.data() == [
        {
            "task_id": 1,
            "board_id": "b1",
            "project_id": "project of b1",
            "action": "updated",
            "changes": {"title": "commit"},
            "task": {"title": "commit"},
        }
    ]


def test_without_sqlalchemy_the_import_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cartows.sqlalchemy")
    for name in [name for name in sys.modules if name.partition(".")[0] == "sqlalchemy"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'cartows\[sqlalchemy\]'"):
        importlib.import_module("cartows.sqlalchemy")


def test_an_app_without_it_does_not_import_sqlalchemy() -> None:
    program = "import cartows, cartows.auth, sys; print([name for name in sys.modules if 'sqlalchemy' in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


class StuckHub(RecordingHub):
    """A hub that accepts nothing within its timeout."""

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        self.calls += 1
        threading.Event().wait(self.options.publish_timeout)
        return PublishResult(False, reason="it is stuck")


def test_a_commit_waits_for_a_full_hub_no_longer_than_one_event_may(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    hub = StuckHub(options=Options(publish_timeout=0.05))
    events = publish_on_commit(session, hub)
    for number in range(5):
        events.broadcast("x", number)
    session.commit()
    assert hub.calls == 1
    assert caplog.text.count("are not sent either") == 1


def test_what_is_broadcast_after_the_last_commit_is_logged_as_lost(
    session: Session, events: Broadcaster, hub: RecordingHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    session.commit()
    events.broadcast("x")
    session.close()
    assert "1 events are not sent" in caplog.text
    assert hub.published == []


def test_events_that_wait_for_a_commit_cannot_wait_for_another(session: Session, events: Broadcaster) -> None:
    with pytest.raises(TypeError, match="Hub or a Publisher"):
        publish_on_commit(session, events)

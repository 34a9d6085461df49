"""Events that wait for the database: sent once it has committed, dropped when it rolls back.

**Threads**: any thread may broadcast, each in a session of its own, since SQLAlchemy's sessions are not shared between threads.
Events are sent on the thread that commits.

**Locks**: none. The events that wait are in ``session.info``, and go with their session.

**Blocks**: a broadcast only in the app's ``project_of_board``. A commit, once the database has its connection back, for as long
as its events take to be published. After ``publish_timeout`` in all, the first event that is rejected ends that: the rest is
dropped.

Each transaction keeps the events that are sent or dropped with it. A savepoint that is released leaves its events to its parent
transaction. One that is rolled back drops them, and so does a session that is closed.

Two threads that commit one after the other may publish in the opposite order: nothing orders them between the commit and the
hub. Where that matters, give the row a version that grows with every update (SQLAlchemy's ``version_id_col``), send it along,
and let pages ignore what is older than what they show.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

try:
    from sqlalchemy.event import listens_for
    from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, scoped_session
except ImportError as missing:
    raise ImportError("cartows.sqlalchemy needs SQLAlchemy: pip install 'cartows[sqlalchemy]'") from missing

from .backplane.base import OutgoingEvent
from .broadcaster import Broadcaster, PublishResult, prepare_event
from .errors import CartowsError, HubClosed, MessageError, PublisherClosed
from .message import Message, merge_snapshots, snapshot
from .options import Options
from .rooms import Audience

__all__ = ["publish_on_commit"]

# The key of a session's _Waiting in its ``info``.
_KEY = "cartows.waiting"


def publish_on_commit(session: scoped_session[Any] | Session, hub: Broadcaster) -> Broadcaster:
    """Return a broadcaster whose events are sent once the session has committed.

    It has the ``broadcast*`` methods of ``hub``. Each call encodes its event at once, so that changing an object afterwards
    changes nothing, and begins a transaction where there is none, as ``session.add`` does. Its PublishResult is accepted and
    has neither ``status`` nor ``id``: the commit decides. An event that is broadcast after the commit waits for the next one,
    and is lost where none follows, which is logged: there, broadcast with ``hub`` itself.

    A call raises what the hub's own raises, except for HubClosed and PublisherClosed, and CartowsError where there is no
    transaction that could be committed. A commit never fails because of an event. The hub logs what it rejects; that it was
    shut down is logged once for each commit.

    Several updates of one task, project or board are merged into one in the place of the last: its data, and the ``changes`` of
    all, key by key. They are not merged across another event of the same entity; nor where the audience or the ``action``
    differs, so that "moved" stays a message of its own; nor where only one of them has ``changes``, or where both together are
    larger than a client could be sent.

    Broadcast on the thread of the session. Events are sent on the thread that commits.

    Args:
        session: Flask-SQLAlchemy's ``db.session`` or another scoped session, once for the app: an event waits in the session
            that is current when it is broadcast. Or one Session, for as long as that is used.
        hub: A Hub or a Publisher. Each receives its own events only. A second call for the same session and hub changes
            nothing.

    Returns:
        The broadcaster.

    Raises:
        TypeError: ``session`` is not a session, or is a factory of sessions; or ``hub`` is not a Hub or a Publisher.
    """
    return _OnCommit(session, hub)


class _OnCommit(Broadcaster):
    """A broadcaster in place of a hub, whose events wait in the session."""

    def __init__(self, session: scoped_session[Any] | Session, hub: Broadcaster) -> None:
        # Without the base's ``__init__``: the hub has what that would create.
        if not isinstance(hub, Broadcaster) or isinstance(hub, _OnCommit):
            raise TypeError(f"publish_on_commit takes a Hub or a Publisher, not {hub!r}: publish_on_commit(db.session, ws.hub)")
        if isinstance(session, scoped_session):
            self._current: Callable[[], Session] = session
        elif isinstance(session, Session):
            self._current = lambda: session
        else:
            raise TypeError(
                f"publish_on_commit takes a session, not {session!r}: Flask-SQLAlchemy's db.session, a scoped_session, or a "
                "Session that is in use. A sessionmaker has no current session: wrap it in a scoped_session, or call "
                "publish_on_commit for each session that it makes"
            )
        self._hub = hub
        self.logger = hub.logger
        self._late_logged = False

    def __repr__(self) -> str:
        return f"<on commit: {self._hub!r}>"

    @property
    def filter_keys(self) -> Collection[str]:
        """The keys that clients may filter by."""
        return self._hub.filter_keys

    @property
    def project_of_board(self) -> Callable[[Any], Any] | None:  # type: ignore[override]
        """The hub's function that returns the project of a board id."""
        return self._hub.project_of_board

    def _project(self, board_id: Any, task: Any, project_id: Any) -> Any:
        # The hub keeps the boards whose missing project it has logged.
        return self._hub._project(board_id, task, project_id)

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Queue a message until the commit; every ``broadcast*`` ends here.

        Raises MessageError for what cannot be serialised or is larger than any client could be sent, CartowsError where no
        transaction could be committed.
        """
        event = _outgoing(self._hub, message, audience)
        session = self._current()
        transaction = session.get_nested_transaction() or session.get_transaction()
        if transaction is None:
            if not session.autobegin:
                raise CartowsError(
                    f"{message.type!r} has no transaction to wait for, and autobegin is off: broadcast after session.begin()"
                )
            # Without a transaction a rollback is not reported: the event would be sent with the next commit.
            transaction = session.begin()
        elif not transaction.is_active:
            raise CartowsError(
                f"{message.type!r} cannot wait for a transaction that has failed or is over: call session.rollback() first; "
                "after a commit, as in an after_commit hook, broadcast with the hub itself"
            )
        waiting: _Waiting = session.info.setdefault(_KEY, {})
        waiting.setdefault(transaction, []).append(_Event(self._hub, snapshot(message, event.body), event))
        marks = _marks_of(session)
        if session.new or session.dirty or session.deleted:
            # A request that fails may close its session before that was flushed.
            marks.written = True
        elif marks.committed and not self._late_logged:
            # Often too late; but a change may follow, so the event waits all the same.
            self._late_logged = True
            self.logger.warning(
                "cartows: %r waits for a commit, but its session has committed already, and nothing was changed since. %s. "
                "Logged once",
                message.type,
                _REMEDY,
            )
        return PublishResult(True)


class _Event(NamedTuple):
    """An event that waits: its message, and how that would be sent."""

    hub: Broadcaster
    message: Message
    outgoing: OutgoingEvent


_REMEDY = (
    "Broadcast before the commit; in a hook that runs after it, such as after_model_change of Flask-Admin, broadcast with the "
    "hub itself"
)


# The events of each transaction that has any, in order; those that are committed under None.
_Waiting = dict[SessionTransaction | None, list[_Event]]


class _Marks:
    """What has happened in one session, apart from its events."""

    __slots__ = ("committed", "rolled_back", "written")

    def __init__(self) -> None:
        #: It has committed, and written nothing since.
        self.committed = False
        #: In the outermost transaction something was written or about to be, or the app has rolled back.
        self.written = self.rolled_back = False


# Not in ``session.info``, which is empty again once no event waits.
_marks: weakref.WeakKeyDictionary[Session, _Marks] = weakref.WeakKeyDictionary()


def _marks_of(session: Session) -> _Marks:
    return _marks.get(session) or _marks.setdefault(session, _Marks())


@listens_for(Session, "after_flush")
def _flushed(session: Session, _context: object) -> None:
    marks = _marks_of(session)
    marks.committed, marks.written = False, True


@listens_for(Session, "do_orm_execute")
def _executed(execution: ORMExecuteState) -> None:
    if not execution.is_select:
        _flushed(execution.session, None)


@listens_for(Session, "after_rollback")
def _rolled_back(session: Session) -> None:
    _marks_of(session).rolled_back = True


@listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    """Leave the events of a transaction to its parent transaction; those of the outermost are to be sent."""
    transaction = session.get_nested_transaction()
    if transaction is None:
        _marks_of(session).committed = True
    waiting: _Waiting | None = session.info.get(_KEY)
    if not waiting:
        return
    parent = None
    if transaction is None:
        transaction = session.get_transaction()
    else:
        parent = transaction.parent
        # A transaction between two savepoints belongs to a flush.
        while parent is not None and not parent.nested and parent.parent is not None:
            parent = parent.parent
    events = waiting.pop(transaction, None)
    if events:
        waiting.setdefault(parent, []).extend(events)


@listens_for(Session, "after_transaction_end")
def _ended(session: Session, transaction: SessionTransaction) -> None:
    """Drop the events of a transaction that was not committed; send the committed ones, now that the connection is returned."""
    marks = _marks_of(session)
    outermost = transaction.parent is None
    waiting: _Waiting | None = session.info.pop(_KEY, None) if outermost else session.info.get(_KEY)
    if waiting is not None:
        lost = waiting.pop(transaction, None)
        if lost:
            _log_lost(lost, as_intended=marks.written or marks.rolled_back)
    if outermost:
        marks.written = marks.rolled_back = False
        _send(() if waiting is None else waiting.get(None, ()))


def _log_lost(lost: list[_Event], as_intended: bool) -> None:
    """Log events that are not sent; ``as_intended``: what they are about is not in the database either."""
    logger, count = lost[0].hub.logger, len(lost)
    if as_intended:
        logger.info("cartows: %d events are not sent: their transaction was not committed", count)
    else:
        logger.warning(
            "cartows: %d events are not sent: their transaction ended without a commit, and no change was seen in it. %s",
            count,
            _REMEDY,
        )


def _send(events: Iterable[_Event]) -> None:
    dropped: set[int] = set()
    began = time.monotonic()
    for hub, message, event in _merged(events):
        if id(hub) in dropped:
            continue
        try:
            # The hub itself logs what it rejects.
            result = hub.publish(message, event.audience)
        except (HubClosed, PublisherClosed) as error:
            dropped.add(id(hub))
            hub.logger.warning("cartows: %r was committed but not sent, nor is any later event: %s", message.type, error)
        except Exception:
            hub.logger.exception("cartows: %r was committed but not sent", message.type)
        else:
            # The request waits for one event as long as it may, but not for each of many.
            if not result.accepted and time.monotonic() - began >= _options(hub).publish_timeout:
                dropped.add(id(hub))
                hub.logger.warning("cartows: events committed after %r are not sent either: %s", message.type, result.reason)


def _merged(events: Iterable[_Event]) -> list[_Event]:
    """Return events with consecutive updates of one entity merged.

    The result takes the place of the newer one: whatever it refers to was sent before.
    """
    kept: dict[int, _Event] = {}
    last: dict[tuple[int, Any], int] = {}
    for index, event in enumerate(events):
        if event.outgoing.entity is not None:
            key = id(event.hub), event.outgoing.entity
            before = last.get(key)
            both = None if before is None else _both(kept[before], event)
            if before is not None and both is not None:
                del kept[before]
                event = both
            last[key] = index
        kept[index] = event
    return list(kept.values())


def _both(older: _Event, newer: _Event) -> _Event | None:
    """Return two events of one entity merged, or None where both are to be sent."""
    if not newer.outgoing.merges or older.outgoing.audience != newer.outgoing.audience:
        return None
    message = merge_snapshots(older.message, newer.message)
    if message is None:
        return None
    try:
        return _Event(newer.hub, message, _outgoing(newer.hub, message, newer.outgoing.audience))
    except MessageError:
        return None


def _outgoing(hub: Broadcaster, message: Message, audience: Audience) -> OutgoingEvent:
    """Return a message as the hub would send it. Raises MessageError where the hub would."""
    return prepare_event(message, audience, getattr(hub, "enc_hook", None), _options(hub).send_queue_bytes)


def _options(hub: Broadcaster) -> Options:
    # Hub and Publisher have options; another kind of Broadcaster may have none.
    return getattr(hub, "options", None) or _DEFAULTS


_DEFAULTS = Options()

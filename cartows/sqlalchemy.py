"""Events that wait for the database: sent once it has committed, forgotten when it rolls back.

Threads: any may broadcast, each in a session of its own, since SQLAlchemy's are not for sharing. Events are sent on the thread
    that commits.
Locks: none. What waits is in ``session.info``, and goes with its session.
Blocks: a broadcast only in the app's ``project_of_board``. A commit, once the database has its connection back, for as long as
    its events take to be published: once the hub has taken none for ``publish_timeout`` the rest is given up.

What waits is kept by the transaction that it stands or falls with. A savepoint that is released leaves its events to the
transaction around it, one that is rolled back takes them along, and so does a session that is closed.

Two threads that commit one after the other may publish the other way round: nothing orders them between the commit and the hub.
Where that matters, give the row a version that grows with every update (SQLAlchemy's ``version_id_col``), send it along, and
have pages ignore what is older than what they show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

try:
    from sqlalchemy.event import listens_for
    from sqlalchemy.orm import Session, SessionTransaction, scoped_session
except ImportError as missing:
    raise ImportError("cartows.sqlalchemy needs SQLAlchemy: pip install 'cartows[sqlalchemy]'") from missing

from .backplane.base import OutgoingEvent
from .broadcaster import Broadcaster, PublishResult, prepare_event
from .errors import CartowsError, HubClosed, MessageError
from .message import Message, merge_snapshots, snapshot
from .options import Options
from .rooms import Audience

__all__ = ["publish_on_commit"]

# Where a session keeps what waits: a _Waiting.
_KEY = "cartows.waiting"


def publish_on_commit(session: scoped_session[Any] | Session, hub: Broadcaster) -> Broadcaster:
    """Return the ``broadcast*`` calls of a hub, or of a Publisher, with every event sent once the session has committed.

    ``session`` is Flask-SQLAlchemy's ``db.session`` or another scoped session, once for the app: an event waits in the session
    that is current when it is broadcast. Or it is one Session, for as long as that is used. Asking twice for the same changes
    nothing; each hub gets its own events only.

    A call raises what the hub's own raise, save HubClosed, and CartowsError where there is no transaction to wait for. It makes
    its event there and then, so changing an object afterwards changes nothing, and begins a transaction where there is none,
    as ``session.add`` does. Its PublishResult is accepted, and has neither ``status`` nor ``id``: the commit decides.

    Several updates of one task, project or board become one in the place of the last: its data, the ``changes`` of all, key by
    key. Not across another event of the same thing, nor where the audience or the ``action`` is another, so that "moved" stays
    a message of its own; nor where only one of them has ``changes``, or both together are larger than a client could be sent.

    A commit never fails for an event. The hub logs what it rejects; that it was shut down is logged once for each commit.
    Raises TypeError for what is no session, or a factory of them.
    """
    return _OnCommit(session, hub)


class _OnCommit(Broadcaster):
    """Be a hub, as far as broadcasts go, whose events wait in the session."""

    def __init__(self, session: scoped_session[Any] | Session, hub: Broadcaster) -> None:
        # Not the base's: what it would make here, the hub has.
        if not isinstance(hub, Broadcaster) or isinstance(hub, _OnCommit):
            raise TypeError(f"publish_on_commit takes a Hub or a Publisher, not {hub!r}: publish_on_commit(db.session, ws.hub)")
        if isinstance(session, scoped_session):
            self._current: Callable[[], Session] = session
        elif isinstance(session, Session):
            self._current = lambda: session
        else:
            raise TypeError(
                f"publish_on_commit takes a session, not {session!r}: Flask-SQLAlchemy's db.session, a scoped_session, or a "
                "Session that is in use. A sessionmaker has no current session: put it into a scoped_session, or call "
                "publish_on_commit for each session that it makes"
            )
        self._hub = hub
        self.logger = hub.logger

    def __repr__(self) -> str:
        return f"<on commit: {self._hub!r}>"

    @property
    def filter_keys(self) -> Collection[str]:
        """The keys that clients may filter by."""
        return self._hub.filter_keys

    @property
    def project_of_board(self) -> Callable[[Any], Any] | None:  # type: ignore[override]
        """The app's own knowledge of which project a board belongs to; the hub's."""
        return self._hub.project_of_board

    def _project(self, board_id: Any, task: Any, project_id: Any) -> Any:
        # The hub knows which boards it has warned about.
        return self._hub._project(board_id, task, project_id)

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Have a message wait for the commit; what every ``broadcast*`` ends in.

        Raises MessageError for what cannot be serialised or is larger than any client could be sent, CartowsError where no
        transaction can come to a commit.
        """
        event = _outgoing(self._hub, message, audience)
        session = self._current()
        transaction = session.get_nested_transaction() or session.get_transaction()
        if transaction is None:
            if not session.autobegin:
                raise CartowsError(
                    f"{message.type!r} has no transaction to wait for, and autobegin is off: broadcast below session.begin()"
                )
            # A rollback of nothing tells nobody: what waits for it would go out with the next commit.
            transaction = session.begin()
        elif not transaction.is_active:
            raise CartowsError(
                f"{message.type!r} cannot wait for a transaction that has failed or is over: call session.rollback() first; "
                "after a commit, as in an after_commit hook, broadcast with the hub itself"
            )
        waiting: _Waiting = session.info.setdefault(_KEY, {})
        waiting.setdefault(transaction, []).append(_Event(self._hub, snapshot(message, event.body), event))
        return PublishResult(True)


class _Event(NamedTuple):
    """Be an event that waits: what it says, and how it would be sent."""

    hub: Broadcaster
    message: Message
    outgoing: OutgoingEvent


# The events of each transaction that has any, in order; below None those that are committed.
_Waiting = dict[SessionTransaction | None, list[_Event]]


@listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    """Leave the events of a transaction to the one around it; those of the outermost are for sending."""
    waiting: _Waiting | None = session.info.get(_KEY)
    if not waiting:
        return
    transaction = session.get_nested_transaction()
    heir = None
    if transaction is None:
        transaction = session.get_transaction()
    else:
        heir = transaction.parent
        # What lies between two savepoints is a flush.
        while heir is not None and not heir.nested and heir.parent is not None:
            heir = heir.parent
    events = waiting.pop(transaction, None)
    if events:
        waiting.setdefault(heir, []).extend(events)


@listens_for(Session, "after_transaction_end")
def _ended(session: Session, transaction: SessionTransaction) -> None:
    """Forget the events of a transaction that was not committed; send what was, now that nobody waits for the database."""
    waiting: _Waiting | None = session.info.get(_KEY)
    if waiting is None:
        return
    lost = waiting.pop(transaction, None)
    if lost:
        # Often that is as it should be. Whoever broadcasts behind the commit instead of before it finds out here.
        lost[0].hub.logger.info("cartows: %d events are not sent: their transaction was not committed", len(lost))
    if transaction.parent is None:
        del session.info[_KEY]
        _send(waiting.get(None, ()))


def _send(events: Iterable[_Event]) -> None:
    given_up: set[int] = set()
    began = time.monotonic()
    for hub, message, event in _merged(events):
        if id(hub) in given_up:
            continue
        try:
            # What it rejects, it logs by itself.
            result = hub.publish(message, event.audience)
        except HubClosed as error:
            given_up.add(id(hub))
            hub.logger.warning("cartows: %r was committed but not sent, nor is what follows it: %s", message.type, error)
        except Exception:
            hub.logger.exception("cartows: %r was committed but not sent", message.type)
        else:
            # The request waits for one event as long as it may, and not for each of many.
            if not result.accepted and time.monotonic() - began >= _options(hub).publish_timeout:
                given_up.add(id(hub))
                hub.logger.warning("cartows: what was committed behind %r is not sent either: %s", message.type, result.reason)


def _merged(events: Iterable[_Event]) -> list[_Event]:
    """Return events with the updates of one thing made one, where nothing else was said of it in between.

    It stands in the place of the newer one: there, all that it speaks of has been told before.
    """
    kept: dict[int, _Event] = {}
    last: dict[tuple[int, Any], int] = {}
    for place, event in enumerate(events):
        if event.outgoing.entity is not None:
            key = id(event.hub), event.outgoing.entity
            before = last.get(key)
            both = None if before is None else _both(kept[before], event)
            if before is not None and both is not None:
                del kept[before]
                event = both
            last[key] = place
        kept[place] = event
    return list(kept.values())


def _both(older: _Event, newer: _Event) -> _Event | None:
    """Return two events of one thing as one, or None where both are to be sent."""
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
    """Return a message as the hub would send it. Raises MessageError for what it would refuse."""
    return prepare_event(message, audience, getattr(hub, "enc_hook", None), _options(hub).send_queue_bytes)


def _options(hub: Broadcaster) -> Options:
    # Those of Hub and Publisher; another kind of Broadcaster may have none.
    return getattr(hub, "options", None) or _DEFAULTS


_DEFAULTS = Options()

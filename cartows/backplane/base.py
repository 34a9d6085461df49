"""What a hub asks of the transport between processes, and what that transport reports to the hub.

What a backplane guarantees. An event that is *stored* has a number. It reaches every hub that reads from the same broker: once,
in the order of the numbers, and with the same number everywhere, so that a client may resume at any of them. A broker that is
restored from an older copy, or replaced by a replica, may give a number again: the events' marks then differ. An event that
is *spooled* waits in this process until the broker is back: the clients of this process receive it at once, all others later,
in the order in which it was published here. If the process ends first, the others never receive it. Any other event was not
accepted, and its publisher is given the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from ..presence.presence import PresenceEntry, PresenceReport
from ..rooms import Audience

__all__ = ["Backplane", "BackplaneResult", "Entry", "OutgoingEvent", "PresenceSink", "Sink", "Snapshot"]


class OutgoingEvent(NamedTuple):
    """An event to publish: encoded, without an id."""

    type: str
    #: The JSON object of the wire, complete but for its id.
    body: bytes
    audience: Audience
    #: What the event is about, for ``coalesce``; and whether a later update of the same entity merges with it.
    entity: Any = None
    merges: bool = False


class Entry(NamedTuple):
    """A stored event, with the number that it has everywhere."""

    number: int
    event: OutgoingEvent
    #: The clients of this process have received it already: only clients that resume need it.
    delivered: bool = False
    #: What tells this event, and all before it, from others that may have had the same numbers in the same epoch: part of its
    #: id. Empty where an epoch can have no two histories.
    mark: str = ""


class Snapshot(NamedTuple):
    """What a hub starts from: the epoch, the number of the last event, and the last events up to it."""

    epoch: str
    number: int
    entries: Sequence[Entry] = ()
    #: The mark of the event before those: a client may have received it last.
    mark: str = ""


class BackplaneResult(NamedTuple):
    """The result of publishing an event: a ``status`` of None is a rejection, for ``reason``."""

    status: Literal["queued", "stored", "spooled"] | None
    id: str | None = None
    reason: str | None = None


class PresenceSink(Protocol):
    """The receiver of other processes' presence entries and commands, and the source of this process's entries."""

    def presence_entries(self) -> list[PresenceEntry]:
        """Return all entries of this process. Called on the announcer's thread."""

    def apply(self, reports: list[PresenceReport]) -> None:
        """Have the hub thread apply the entries that other processes report. Must not block."""

    def disconnect_identity(self, identity: str, code: int, reason: str) -> None:
        """Close the clients of an identity, as another process has closed its own. Must not block."""

    def reauthorize_identity(self, identity: str) -> None:
        """Authorize the subscriptions of an identity again, as another process has done. Must not block."""


class Sink(PresenceSink, Protocol):
    """The receiver of a backplane's events and notices: a hub. It dispatches them in the order of the calls."""

    def put(self, event: OutgoingEvent, epoch: str, timeout: float) -> BackplaneResult:
        """Number an event of this process in an epoch and dispatch it; wait ``timeout`` seconds for room."""

    def put_entries(self, entries: Sequence[Entry]) -> None:
        """Dispatch stored events and keep them for clients that resume. Accepts them even when the queue is full."""

    def put_local(self, event: OutgoingEvent) -> None:
        """Dispatch an event to this process's clients without an id. Accepts it even when the queue is full."""

    def await_room(self) -> bool:
        """Wait until there is room for events; return False when the hub accepts no more."""

    def broker_lost(self) -> None:
        """Notify clients that they receive this process's events alone, and give out no position until it is restored."""

    def broker_restored(self) -> None:
        """Notify clients that they receive the events of all processes again, and of their position."""

    def new_epoch(self, snapshot: Snapshot) -> None:
        """Replace the history by that of another epoch. Events were lost, so clients are notified to reload."""


class Backplane(Protocol):
    """The transport that carries events from every process to every hub."""

    def prepare(self) -> Snapshot:
        """Return what the hub starts from. Hub thread, before it serves any client."""

    def follow(self) -> None:
        """Start passing on the events after that snapshot. Hub thread, once."""

    def publish(self, event: OutgoingEvent, timeout: float) -> BackplaneResult:
        """Publish an event within ``timeout`` seconds; raise nothing that depends on the broker. Any thread."""

    def may_exist(self, number: int) -> bool:
        """Return whether an event may exist whose number the hub has not reached. Hub thread."""

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        """Announce changed entries of this process by ref, None for those that have left. Never blocks. Hub thread."""

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """Make the other processes close their clients of an identity. Never blocks. Any thread."""

    def reauthorize(self, identity: str) -> None:
        """Make the other processes authorize an identity's subscriptions again. Never blocks. Any thread."""

    def stats(self) -> dict[str, Any]:
        """Return counters for ``hub.stats()``. Any thread."""

    def stop(self, timeout: float) -> None:
        """Store what can be stored within ``timeout`` seconds, and end. Later events are rejected."""

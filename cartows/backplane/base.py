"""What a hub asks of the way between processes, and what it is told by it.

Threads: values here; see the implementations.
Locks: none.
Blocks: never.

What a backplane promises. An event that is *stored* has a number, and reaches every hub that reads from the same place: once,
in the order of the numbers, and with the same number everywhere, so that a client may resume at any of them. An event that is
*spooled* waits in this process for the place to come back: it is heard by this process's own clients at once and by all
others later, in the order in which it was published here; if the process ends before, the others never hear it. What is
neither was not accepted, and the publisher was told why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from ..presence.presence import PresenceEntry, PresenceReport
from ..rooms import Audience

__all__ = ["Backplane", "Entry", "Outcome", "OutgoingEvent", "PresenceSink", "Sink", "Snapshot"]


class OutgoingEvent(NamedTuple):
    """Be an event on its way out: encoded, without an id."""

    type: str
    #: The JSON object of the wire, complete but for its id.
    body: bytes
    audience: Audience
    #: What it is about, for ``coalesce``; and whether a later update of the same merges with it.
    entity: Any = None
    merges: bool = False


class Entry(NamedTuple):
    """Be an event that is stored, with the number that it has everywhere."""

    number: int
    event: OutgoingEvent
    #: This process's own clients have heard it already: it is for those who come back.
    delivered: bool = False


class Snapshot(NamedTuple):
    """Be what a hub begins with: the epoch, the number of the last event, and the last events up to it."""

    epoch: str
    number: int
    entries: Sequence[Entry] = ()


class Outcome(NamedTuple):
    """Say what became of an event: ``status`` of None is a refusal, for ``reason``."""

    status: Literal["queued", "stored", "spooled"] | None
    id: str | None = None
    reason: str | None = None


class PresenceSink(Protocol):
    """Be told by a backplane of the people in other processes, and asked for those in this one."""

    def presence_entries(self) -> list[PresenceEntry]:
        """Return everybody in this process. Called by the announcer."""

    def apply(self, reports: list[PresenceReport]) -> None:
        """Have the hub thread take what other processes tell of their people. Must not wait."""

    def disconnect_identity(self, identity: str, code: int, reason: str) -> None:
        """Close the clients of an identity, as another process has closed its own. Must not wait."""

    def reauthorize_identity(self, identity: str) -> None:
        """See that the app is asked again what an identity may hear, as it was in another process. Must not wait."""


class Sink(PresenceSink, Protocol):
    """Be told by a backplane what has happened; a hub is one. What is put is handed out in the order in which it was put."""

    def put(self, event: OutgoingEvent, epoch: str, timeout: float) -> Outcome:
        """Number an event of this process in an epoch and have it handed out; waits ``timeout`` seconds for room."""

    def put_entries(self, entries: Sequence[Entry]) -> None:
        """Have stored events handed out and kept for those who come back. Takes them whether there is room or not."""

    def put_local(self, event: OutgoingEvent) -> None:
        """Have an event handed out to this process's clients without an id. Takes it whether there is room or not."""

    def await_room(self) -> bool:
        """Wait until there is room for events; False when the hub takes none any more."""

    def broker_lost(self) -> None:
        """Tell clients that they hear nothing but this process, and give nobody a position to resume from until then."""

    def broker_restored(self) -> None:
        """Tell clients that they hear everybody again, and where they are."""

    def new_epoch(self, past: Snapshot) -> None:
        """Forget the history and begin with another: events were lost, so clients are told to load everything again."""


class Backplane(Protocol):
    """Carry events from every process to every hub."""

    def prepare(self) -> Snapshot:
        """Return what the hub begins with. Hub thread, before anybody is served."""

    def follow(self) -> None:
        """Hand on what comes behind that, from now on. Hub thread, once."""

    def publish(self, event: OutgoingEvent, timeout: float) -> Outcome:
        """Take an event; waits ``timeout`` seconds at most and raises nothing that depends on the broker. Any thread."""

    def may_come(self, number: int) -> bool:
        """Return whether an event may exist whose number the hub has not come to. Hub thread."""

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        """Tell the other processes of people here, by ref: who came, and None for who has left. Never waits. Hub thread."""

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """Have the other processes close their clients of an identity. Never waits. Any thread."""

    def reauthorize(self, identity: str) -> None:
        """Have the other processes ask again what an identity may hear. Never waits. Any thread."""

    def stats(self) -> dict[str, Any]:
        """Return counters for ``hub.stats()``. Any thread."""

    def stop(self, timeout: float) -> None:
        """Store what can be stored within so many seconds, and end. Whatever comes later is refused."""

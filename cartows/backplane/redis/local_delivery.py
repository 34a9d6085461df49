"""What the clients of this process receive: events from the reader, and during an outage this process's own at once.

**Locks**: none of its own; the event writer's is held throughout, also while the sink is called. Events put to local clients
and events read back can then not overtake one another.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Sink, Snapshot
from .echoes import Echoes
from .event_store import Record, entry_of
from .spool import PendingEvent, Spool

__all__ = ["LocalDelivery"]


class LocalDelivery:
    """The calls to a process's sink. Without a sink, as in a process that only publishes, there are none."""

    def __init__(self, sink: Sink | None, origin: str) -> None:
        self.echoes = Echoes()
        #: The number that the reader must reach before clients are notified that the broker is restored, or None.
        self.target: int | None = None
        self._sink = sink
        self._origin = origin
        #: Clients were notified that the broker is lost, and not yet that it is restored.
        self._degraded = False

    # From the reader ----------------------------------------------------------------------------------------------

    def deliver(self, records: Sequence[Record], position: int, spool: Spool) -> None:
        """Pass on what was read up to the number ``position``, and notify the sink when that is the target."""
        sink = self._sink
        assert sink is not None
        if records:
            sink.put_entries([entry_of(record, self._is_delivered(record, spool)) for record in records])
        self.echoes.read_to = max(self.echoes.read_to, position)
        if self.target is not None and position >= self.target:
            self._restore()

    def _is_delivered(self, record: Record, spool: Spool) -> bool:
        """Record that the reader has reached an event; return whether local clients have received it already."""
        if record.origin != self._origin:
            return False
        spool.mark_read(record.seq)
        return self.echoes.read_back(record.seq)

    def new_epoch(self, snapshot: Snapshot) -> None:
        """Make the sink continue after a snapshot of another epoch."""
        assert self._sink is not None
        self._sink.new_epoch(snapshot)
        self.echoes.begin(snapshot)
        # Lost numbers are never read.
        if self.target is not None:
            self.target = min(self.target, snapshot.number)

    # From the event writer ----------------------------------------------------------------------------------------

    def published(self, pending: PendingEvent) -> None:
        """Put an event to local clients that is published during an outage."""
        if self._sink is not None:
            self._sink.put_local(pending.event)

    def stored(self, pending: PendingEvent, epoch: str, number: int) -> None:
        """Expect the reader to reach an event."""
        if self._sink is not None and not pending.is_read:
            self.echoes.stored(pending.seq, epoch, number, pending.event)

    def start_outage(self, spool: Spool) -> None:
        """Notify the sink, and put to local clients what they have not received yet."""
        self.target = None
        if self._sink is not None:
            if not self._degraded:
                self._degraded = True
                self._sink.broker_lost()
            unread = spool.unread()
            self.echoes.start_outage([pending.seq for pending in unread], spool.last_seq + 1, self._sink.put_local)
            for pending in unread:
                self._sink.put_local(pending.event)
        self.echoes.clear()

    def end_outage(self, last_seq: int, number: int) -> None:
        """Leave delivery to the reader again; notify the sink once that has reached ``number``."""
        self.echoes.end_outage(last_seq)
        self.target = number
        if self._sink is None or self.echoes.read_to >= number:
            self._restore()

    def _restore(self) -> None:
        self.target = None
        if self._degraded and self._sink is not None:
            self._degraded = False
            self._sink.broker_restored()

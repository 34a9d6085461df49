"""Events for these tests, a reader of them, and a sink that keeps its calls."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

from cartows.backplane.base import BackplaneResult, Entry, OutgoingEvent, Snapshot
from cartows.backplane.redis.event_store import Names, Record, mark_of, record_of
from cartows.backplane.redis.event_writer import EventWriter
from cartows.rooms import Audience
from tests.support.redis.server import Redis

NAMES = Names()


def event(number: int, *, by: str = "", padding: int = 0) -> OutgoingEvent:
    """Return an event that carries its number and its publisher, and has at least ``padding`` bytes."""
    data = {"n": number, "by": by, "padding": "." * padding}
    return OutgoingEvent("test.event", json.dumps(data).encode(), Audience((("board_id", "b1"),)))


def number_of(event: OutgoingEvent) -> int:
    """Return the number that an event carries."""
    found: int = json.loads(event.body)["n"]
    return found


def wire_id(record: Record) -> str:
    """Return the id of an event on the wire."""
    return f"{record.epoch}.{record.number}-{mark_of(record.chain)}"


def numbers_of(events: Sequence[OutgoingEvent], by: str | None = None) -> list[int]:
    """Return the numbers of events, or of those by one publisher."""
    found = [json.loads(event.body) for event in events]
    return [each["n"] for each in found if by is None or each["by"] == by]


def stream(server: Redis, after: int = 0) -> list[Record]:
    """Return what is stored above a number."""
    with server.client() as client:
        return [record_of(id, fields) for id, fields in client.xrange(NAMES.events, f"{after + 1}-0", "+")]


def stored(server: Redis) -> list[int]:
    """Return the numbers that the stored events carry, in their order."""
    return numbers_of([record.event for record in stream(server)])


class RecordingSink:
    """A sink: what a hub would dispatch is in ``delivered``, and every call in ``calls``, in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.delivered: list[int] = []
        self.degraded = False
        self._changed = threading.Condition()

    def _note(self, call: Any) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()

    def put(self, event: OutgoingEvent, timeout: float) -> BackplaneResult:
        raise AssertionError("a writer leaves the numbers to the broker")

    def put_entries(self, entries: Sequence[Entry]) -> None:
        self.delivered += [number_of(entry.event) for entry in entries if not entry.delivered]
        for entry in entries:
            self._note(("entry", number_of(entry.event), entry.delivered))

    def put_local(self, event: OutgoingEvent) -> None:
        assert self.degraded
        self.delivered.append(number_of(event))
        self._note(("local", number_of(event)))

    def await_room(self) -> bool:
        return True

    def broker_lost(self) -> None:
        assert not self.degraded
        self.degraded = True
        self._note("broker_lost")

    def broker_restored(self) -> None:
        assert self.degraded
        self.degraded = False
        self._note("broker_restored")

    def new_epoch(self, snapshot: Snapshot) -> None:
        self._note(("new_epoch", snapshot.number))


class Reader:
    """A reader of the stream for an event writer, which reads when the test calls it."""

    def __init__(self, server: Redis, writer: EventWriter) -> None:
        self._server = server
        self._writer = writer
        self.position = 0

    def read(self) -> None:
        """Pass on what is there."""
        records = stream(self._server, self.position)
        if records:
            self.position = records[-1].number
        self._writer.deliver(records, self.position)

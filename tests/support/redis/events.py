"""Events for these tests, who reads them back, and a sink that keeps what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

from cartows.backplane.base import Entry, BackplaneResult, OutgoingEvent, Snapshot
from cartows.backplane.redis.event_store import Names, Record, record_of
from cartows.backplane.redis.event_writer import EventWriter
from cartows.rooms import Audience
from tests.support.redis.server import Redis

NAMES = Names()


def event(number: int, *, by: str = "", padding: int = 0) -> OutgoingEvent:
    """Return an event that tells its number, who published it, and has at least so many bytes."""
    data = {"n": number, "by": by, "padding": "." * padding}
    return OutgoingEvent("test.event", json.dumps(data).encode(), Audience((("board_id", "b1"),)))


def number_of(event: OutgoingEvent) -> int:
    """Return the number that an event tells."""
    found: int = json.loads(event.body)["n"]
    return found


def numbers_of(events: Sequence[OutgoingEvent], by: str | None = None) -> list[int]:
    """Return the numbers of events, or of those by one publisher."""
    told = [json.loads(event.body) for event in events]
    return [each["n"] for each in told if by is None or each["by"] == by]


def stream(server: Redis, after: int = 0) -> list[Record]:
    """Return what is stored above a number."""
    with server.client() as client:
        return [record_of(id, fields) for id, fields in client.xrange(NAMES.events, f"{after + 1}-0", "+")]


def stored(server: Redis) -> list[int]:
    """Return the numbers that the stored events tell, in their order."""
    return numbers_of([record.event for record in stream(server)])


class Ears:
    """Be a sink; what a hub would hand out is in ``heard``, and everything in ``told``, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.heard: list[int] = []
        self.cut = False
        self._changed = threading.Condition()

    def _note(self, what: Any) -> None:
        with self._changed:
            self.told.append(what)
            self._changed.notify_all()

    def put(self, event: OutgoingEvent, timeout: float) -> BackplaneResult:
        raise AssertionError("a lane numbers nothing itself")

    def put_entries(self, entries: Sequence[Entry]) -> None:
        self.heard += [number_of(entry.event) for entry in entries if not entry.delivered]
        for entry in entries:
            self._note(("entry", number_of(entry.event), entry.delivered))

    def put_local(self, event: OutgoingEvent) -> None:
        assert self.cut
        self.heard.append(number_of(event))
        self._note(("local", number_of(event)))

    def await_room(self) -> bool:
        return True

    def broker_lost(self) -> None:
        assert not self.cut
        self.cut = True
        self._note("cut off")

    def broker_restored(self) -> None:
        assert self.cut
        self.cut = False
        self._note("broker_restored")

    def new_epoch(self, past: Snapshot) -> None:
        self._note(("start over", past.number))


class Reader:
    """Read the stream for a lane when the test says so."""

    def __init__(self, server: Redis, lane: EventWriter) -> None:
        self._server = server
        self._lane = lane
        self.position = 0

    def read(self) -> None:
        """Hand on what is there."""
        records = stream(self._server, self.position)
        if records:
            self.position = records[-1].number
        self._lane.deliver(records, self.position)

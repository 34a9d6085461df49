"""The clients of the chaos test, which keep what they receive, and the comparison of that with what was published.

What is guaranteed: while a client is connected, or comes back and is recovered, it receives each stored event once, in the
order of the ids; events without an id keep the order of their publisher. When it is notified to reload, its count starts again:
what was published before that is part of what it loads, whether it was received or not.
"""

from __future__ import annotations

import bisect
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.support.harness import HOST, epoch_and_number
from tests.support.raw_client import CLOSE, TEXT, RawClient

Json = dict[str, Any]


class Sent(NamedTuple):
    """One event as its publisher sees it."""

    label: str
    board: str
    began: float
    ended: float
    #: "stored", "spooled", "rejected", or "no answer".
    status: str
    id: str | None
    #: The process that published it, 0 where none answered.
    pid: int


class Received(NamedTuple):
    """One message that a client has received."""

    at: float
    type: str
    label: str
    id: str | None
    data: Json

    def __str__(self) -> str:
        rest = f" {self.data}" if self.type != "numbered" else f" by {self.data['pid']}"
        return f"{self.at:8.3f}  {self.label:14} {self.id or '-':20}{rest}"


class RecordingClient:
    """A client that keeps its position and every message that it receives."""

    def __init__(self, port: int, name: str, board: str | None, chance: random.Random | None) -> None:
        """Subscribe to one board, or to everything; with a ``chance`` leave and come back at random."""
        self.name = name
        self.board = board
        self._port = port
        self._chance = chance
        self.received: list[Received] = []
        self.position: str | None = None
        self._last: str | None = None
        self._ending = threading.Event()
        self.received_last = False

    def end(self, last: str | None) -> None:
        """End once that event has been received; at once for None."""
        self._last = last
        # It may have come before the answer of its publisher; or it comes at this moment, and both notice it.
        if any(message.label == last for message in self.received[-1000:]):
            self.received_last = True
        self._ending.set()

    def run(self) -> None:
        deadline = float("inf")
        while not self.received_last:
            if self._ending.is_set():
                deadline = min(deadline, time.monotonic() + 20)
                if self._last is None or time.monotonic() > deadline:
                    return
            try:
                self._visit(deadline)
            except (OSError, EOFError, AssertionError, ValueError):
                # A worker that dies cuts frames short, and one that is about to die does not answer.
                self._ending.wait(0.05)

    def _visit(self, deadline: float) -> None:
        path = "/ws?" + "&".join(
            f"{key}={quote(value, safe='')}" for key, value in (("since", self.position), ("board_id", self.board)) if value
        )
        with RawClient(HOST, self._port) as raw:
            raw.socket.settimeout(6)
            if raw.open(path).status != 101:
                self._ending.wait(0.05)
                return
            until = time.monotonic() + (self._chance.uniform(0.1, 3.0) if self._chance else 1e9)
            while not self.received_last and time.monotonic() < deadline:
                if time.monotonic() > until and not self._ending.is_set():
                    return
                # Between two frames only: a frame that is cut by a time limit could not be read on.
                if not raw._buffer:
                    raw.socket.settimeout(0.2)
                    try:
                        piece = raw.socket.recv(65536)
                    except TimeoutError:
                        continue
                    finally:
                        raw.socket.settimeout(6)
                    if not piece:
                        return
                    raw._buffer += piece
                frame = raw.frame(pings=True)
                if frame.opcode == CLOSE:
                    return
                if frame.opcode == TEXT:
                    self._receive(frame.json)

    def _receive(self, message: Json) -> None:
        data = message.get("data") or {}
        label = f"{data['by']}.{data['n']}" if message["type"] == "numbered" else message["type"]
        self.received.append(Received(time.monotonic(), message["type"], label, message.get("id"), data))
        self.position = message.get("id", self.position)
        if label == self._last:
            self.received_last = True


class DeliveryCheck:
    """The comparison of what every client has received with what was published."""

    def __init__(self, sent: Sequence[Sent], killed: Container[int], stream: dict[str, str] | None) -> None:
        """Take what was published, the processes that were killed, and the ids in the stream where it has lost nothing."""
        self._killed = killed
        self.sent = {event.label: event for event in sent}
        #: The ids of the events that are known to be stored.
        self.ids: dict[str, str] = {event.label: event.id for event in sent if event.id}
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        if stream is not None:
            self._check_stream(stream)
            self.ids = dict(stream)
        self._by_epoch: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for label, id in self.ids.items():
            epoch, number = epoch_and_number(id)
            self._by_epoch[epoch].append((number, label))
        for numbers in self._by_epoch.values():
            numbers.sort()

    def _check_stream(self, stream: dict[str, str]) -> None:
        for label, id in self.ids.items():
            if stream.get(label) != id:
                self.faults.append(
                    f"{label} was reported as stored under {id}, and the stream has it under {stream.get(label)}"
                )
        for event in self.sent.values():
            if event.status == "spooled" and event.pid not in self._killed and event.label not in stream:
                self.faults.append(f"{event.label} was spooled by {event.pid}, which lived on, and is not in the stream")
            if event.status == "rejected" and event.label in stream:
                self.faults.append(f"{event.label} was rejected, and is in the stream")

    def check(self, client: RecordingClient) -> None:
        """Check one client."""
        segment: list[Received] = []
        before: set[str] = set()
        for index, message in enumerate(client.received):
            data = message.data
            reloads = (message.type == "connected" and not data.get("recovered")) or (
                message.type == "restored" and not data["recovered"]
            )
            if reloads and segment:
                self._segment(client, segment, before, index - len(segment))
                before |= {each.label for each in segment if each.type == "numbered"}
                segment = []
            if reloads:
                self.counts["first connects" if not index else f"reloads by {message.type}"] += 1
            elif message.type == "connected":
                self.counts["recovered"] += 1
                self.counts["replayed events"] += data["replayed"]
            elif message.type == "degraded":
                self.counts["degraded"] += 1
            elif message.type == "restored":
                self.counts["restored"] += 1
            segment.append(message)
        self._segment(client, segment, before, len(client.received) - len(segment))
        if not client.received_last:
            self._fault(client, len(client.received) - 1, "the last event was never received")

    def _segment(self, client: RecordingClient, segment: list[Received], before: set[str], start: int) -> None:
        """Check what a client has received between two reloads."""
        since = segment[0].at
        received: set[str] = set()
        orders: dict[tuple[str, int], int] = {}
        last: tuple[str, int] | None = None
        checked = 0
        for index, message in enumerate(segment, start):
            if message.type == "numbered":
                if message.label in received:
                    self._fault(client, index, f"{message.label} was received twice")
                received.add(message.label)
                by = (message.data["by"], message.data["pid"])
                if orders.get(by, -1) >= message.data["n"]:
                    self._fault(client, index, f"{message.label} came after {by[0]}.{orders[by]} of the same publisher")
                orders[by] = message.data["n"]
                if message.label not in self.sent:
                    self._fault(client, index, f"{message.label} was never published")
                elif self.sent[message.label].status == "rejected":
                    self._fault(client, index, f"{message.label} was rejected, and was received")
                if message.id is not None and self.ids.setdefault(message.label, message.id) != message.id:
                    self._fault(client, index, f"{message.label} is {self.ids[message.label]} elsewhere")
                self.counts["events received" if message.id else "events received without id"] += 1
            if message.id is None or "." not in message.id:
                continue
            epoch, number = epoch_and_number(message.id)
            if last is not None and (epoch, number) < (last[0], last[1] + (message.type == "numbered")) and epoch == last[0]:
                self._fault(client, index, f"{message.id} came after {last[0]}.{last[1]}")
            if last is not None and epoch != last[0]:
                self._fault(client, index, f"{message.id} came after {last[0]}.{last[1]} without a reload")
            last = (epoch, number)
            known = self._by_epoch[epoch]
            if checked == 0:
                checked = bisect.bisect_right(known, (number, "~")) if message is segment[0] else 0
            end = bisect.bisect_right(known, (number, "~"))
            for _, label in known[checked:end]:
                event = self.sent[label]
                if label in received or (client.board and event.board not in (client.board, "")):
                    continue
                if event.began <= since:
                    # It was in flight at the reload, whose result includes it.
                    self.counts["in flight at a reload"] += label not in before
                    continue
                self._fault(client, index, f"{label} ({self.ids[label]}, {event.status}) is missing")
            checked = max(checked, end)

    def _fault(self, client: RecordingClient, index: int, text: str) -> None:
        with_context = [f"{client.name} (board {client.board}): {text}; around it:"]
        with_context += [
            f"  {'>' if number == index else ' '} {message}"
            for number, message in enumerate(client.received[max(0, index - 25) : index + 6], max(0, index - 25))
        ]
        self.faults.append("\n".join(with_context))

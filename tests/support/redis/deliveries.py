"""The clients of the chaos, which keep whatever they hear, and the judge who holds it against what was published.

What is promised: while a client hears the hub, or comes back and is recovered, it hears each event that is stored once, in the
order of the ids; what it hears without an id keeps the order of its publisher. Once it is told to load everything again, its
count begins anew: what was published before that is part of what it loads, whether it has been heard or not.
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

from tests.support.harness import HOST
from tests.support.raw_client import CLOSE, TEXT, RawClient

Json = dict[str, Any]


class Sent(NamedTuple):
    """Be one event as its publisher knows it."""

    label: str
    board: str
    began: float
    ended: float
    #: "stored", "spooled", "refused", or "no answer".
    how: str
    id: str | None
    #: Who it was published by, 0 where nobody answered.
    pid: int


class Said(NamedTuple):
    """Be one message as a client has heard it."""

    at: float
    type: str
    label: str
    id: str | None
    data: Json

    def __str__(self) -> str:
        rest = f" {self.data}" if self.type != "numbered" else f" by {self.data['pid']}"
        return f"{self.at:8.3f}  {self.label:14} {self.id or '-':20}{rest}"


class Ear:
    """Be a client that keeps its position, and everything it hears."""

    def __init__(self, port: int, name: str, board: str | None, chance: random.Random | None) -> None:
        """Take the server's port, and the one board to hear of; with a ``chance`` it leaves and comes back at random."""
        self.name = name
        self.board = board
        self._port = port
        self._chance = chance
        self.said: list[Said] = []
        self.position: str | None = None
        self._last: str | None = None
        self._ending = threading.Event()
        self.heard_last = False

    def end(self, last: str | None) -> None:
        """End, once that event has been heard; or at once."""
        self._last = last
        # It may have come before the answer of its publisher; or it comes at this very moment, and is noticed by both.
        if any(said.label == last for said in self.said[-1000:]):
            self.heard_last = True
        self._ending.set()

    def run(self) -> None:
        deadline = float("inf")
        while not self.heard_last:
            if self._ending.is_set():
                deadline = min(deadline, time.monotonic() + 20)
                if self._last is None or time.monotonic() > deadline:
                    return
            try:
                self._visit(deadline)
            except (OSError, EOFError, AssertionError, ValueError):
                # A worker that dies cuts frames, and one that is about to does not answer.
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
            while not self.heard_last and time.monotonic() < deadline:
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
                    self._hear(frame.json)

    def _hear(self, message: Json) -> None:
        data = message.get("data") or {}
        label = f"{data['by']}.{data['n']}" if message["type"] == "numbered" else message["type"]
        self.said.append(Said(time.monotonic(), message["type"], label, message.get("id"), data))
        self.position = message.get("id", self.position)
        if label == self._last:
            self.heard_last = True


class Judge:
    """Hold what every client has heard against what was published."""

    def __init__(self, sent: Sequence[Sent], killed: Container[int], stream: dict[str, str] | None) -> None:
        """Take what was published, by which processes that were killed, and the ids in the stream where nothing was lost."""
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
            epoch, _, number = id.rpartition(".")
            self._by_epoch[epoch].append((int(number), label))
        for numbers in self._by_epoch.values():
            numbers.sort()

    def _check_stream(self, stream: dict[str, str]) -> None:
        for label, id in self.ids.items():
            if stream.get(label) != id:
                self.faults.append(
                    f"{label} was reported as stored under {id}, and the stream has it under {stream.get(label)}"
                )
        for event in self.sent.values():
            if event.how == "spooled" and event.pid not in self._killed and event.label not in stream:
                self.faults.append(f"{event.label} was spooled by {event.pid}, which lived on, and is not in the stream")
            if event.how == "refused" and event.label in stream:
                self.faults.append(f"{event.label} was refused, and is in the stream")

    def hear(self, ear: Ear) -> None:
        """Judge one client."""
        segment: list[Said] = []
        before: set[str] = set()
        for place, said in enumerate(ear.said):
            data = said.data
            anew = (said.type == "connected" and not data.get("recovered")) or (
                said.type == "restored" and not data["recovered"]
            )
            if anew and segment:
                self._segment(ear, segment, before, place - len(segment))
                before |= {each.label for each in segment if each.type == "numbered"}
                segment = []
            if anew:
                self.counts["first connects" if not place else f"reloads by {said.type}"] += 1
            elif said.type == "connected":
                self.counts["recovered"] += 1
                self.counts["replayed events"] += data["replayed"]
            elif said.type == "degraded":
                self.counts["degraded"] += 1
            elif said.type == "restored":
                self.counts["restored"] += 1
            segment.append(said)
        self._segment(ear, segment, before, len(ear.said) - len(segment))
        if not ear.heard_last:
            self._fault(ear, len(ear.said) - 1, "the last event was never heard")

    def _segment(self, ear: Ear, segment: list[Said], before: set[str], start: int) -> None:
        """Judge what a client has heard between two times at which it was told to load everything."""
        since = segment[0].at
        heard: set[str] = set()
        orders: dict[tuple[str, int], int] = {}
        last: tuple[str, int] | None = None
        checked = 0
        for place, said in enumerate(segment, start):
            if said.type == "numbered":
                if said.label in heard:
                    self._fault(ear, place, f"{said.label} was heard twice")
                heard.add(said.label)
                by = (said.data["by"], said.data["pid"])
                if orders.get(by, -1) >= said.data["n"]:
                    self._fault(ear, place, f"{said.label} came behind {by[0]}.{orders[by]} of the same publisher")
                orders[by] = said.data["n"]
                if said.label not in self.sent:
                    self._fault(ear, place, f"{said.label} was never published")
                elif self.sent[said.label].how == "refused":
                    self._fault(ear, place, f"{said.label} was refused, and is heard")
                if said.id is not None and self.ids.setdefault(said.label, said.id) != said.id:
                    self._fault(ear, place, f"{said.label} is {self.ids[said.label]} elsewhere")
                self.counts["events heard" if said.id else "events heard without id"] += 1
            if said.id is None or "." not in said.id:
                continue
            epoch, _, text = said.id.rpartition(".")
            number = int(text)
            if last is not None and (epoch, number) < (last[0], last[1] + (said.type == "numbered")) and epoch == last[0]:
                self._fault(ear, place, f"{said.id} came behind {last[0]}.{last[1]}")
            if last is not None and epoch != last[0]:
                self._fault(ear, place, f"{said.id} came behind {last[0]}.{last[1]} with no word of another epoch")
            last = (epoch, number)
            known = self._by_epoch[epoch]
            if checked == 0:
                checked = bisect.bisect_right(known, (number, "~")) if said is segment[0] else 0
            end = bisect.bisect_right(known, (number, "~"))
            for _, label in known[checked:end]:
                event = self.sent[label]
                if label in heard or (ear.board and event.board not in (ear.board, "")):
                    continue
                if event.began <= since:
                    # It was on its way when everything was loaded, which it is part of.
                    self.counts["on their way at a reload"] += label not in before
                    continue
                self._fault(ear, place, f"{label} ({self.ids[label]}, {event.how}) is missing")
            checked = max(checked, end)

    def _fault(self, ear: Ear, place: int, text: str) -> None:
        with_context = [f"{ear.name} (board {ear.board}): {text}; around it:"]
        with_context += [
            f"  {'>' if number == place else ' '} {said}"
            for number, said in enumerate(ear.said[max(0, place - 25) : place + 6], max(0, place - 25))
        ]
        self.faults.append("\n".join(with_context))

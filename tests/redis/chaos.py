"""Break everything but the promise: ``python -m tests.redis.chaos --seconds 60 --seed 1 [--empty]``.

Three gunicorn workers and a process that only publishes send numbered events by way of one Redis, while that Redis, the wire to
it, the workers and the publisher are killed, paused, filled up and cut off. Clients stay, drop, and come back at whichever
worker takes them. At the end every client must have heard each event that was reported as stored exactly once, in order, or have
been told to load everything again, from when on its count begins anew. What a killed process had only spooled, or never
answered for, may be heard once or not at all. With ``--empty`` Redis also loses all it has.

The seed decides what is done, in which order and for how long; when exactly it hits whom is the machine's.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import redis.exceptions

from ..servers import process
from ..servers.clients import CLOSE, TEXT, Raw
from ..servers.harness import HOST, ROOT, Plan, Server
from ..servers.process import wait_for
from .server import Proxy, Redis

PUBLISH_TIMEOUT = 0.5

# How much later than that a publisher's answer may be on a machine as busy as this, in seconds, where nobody paused its worker.
LATE = 2.0

WORKERS = 3
BOARDS = ("b0", "b1")
STAYING, ROVING = 12, 18

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


class Wreck:
    """Hold everything that is broken or heard of: servers, clients, and what came of it."""

    def __init__(self, directory: Path, seed: int, empty: bool) -> None:
        self.empty = empty
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.done: Counter[str] = Counter()
        self.sent: list[Sent] = []
        #: Processes that were killed, and when which were paused.
        self.killed: set[int] = set()
        self.pauses: list[tuple[int, float, float]] = []
        self.faults: list[str] = []
        self.lock = threading.Lock()
        (directory / "redis").mkdir()
        (directory / "server").mkdir()
        settings = {} if empty else {"appendfsync": "always"}
        self.redis = Redis(directory / "redis", persistent=not empty, **settings)
        self.proxy = Proxy(self.redis.port)
        self.url = self.redis.url_of(self.proxy.port)
        config = {
            "CARTOWS_REDIS_URL": self.url,
            "CARTOWS_PUBLISH_TIMEOUT": PUBLISH_TIMEOUT,
            "CARTOWS_HISTORY_SIZE": 60_000,
            "CARTOWS_HISTORY_BYTES": 2**26,
        }
        plan = Plan("cluster", workers=WORKERS, threads=8, config=json.dumps(config))
        self.server = Server(plan, directory / "server", None)

    def close(self) -> None:
        self.over.set()
        self.server.kill()
        self.proxy.close()
        self.redis.stop()

    def workers(self) -> list[int]:
        """Return the workers that run now."""
        return [pid for pid in process.children(self.server.process.pid) if process.alive(pid)]

    def note(self, events: Sequence[Sent]) -> None:
        with self.lock:
            self.sent += events

    # Breaking things ---------------------------------------------------------------------------------------------

    def break_redis(self, chance: random.Random) -> None:
        """Do something to Redis, or to the wire to it, and undo it."""
        ways: list[tuple[Callable[[float], None], float]] = [
            (self.pause_redis, 2.5),
            (self.restart_redis, 1.0),
            (self.kill_connections, 0.0),
            (self.fill_redis, 1.5),
            (self.eat_packets, 2.5),
            (self.cut_wire, 0.0),
        ]
        if self.empty:
            ways += [(self.flush_redis, 0.0), (self.flush_redis, 0.0)]
        way, longest = chance.choice(ways)
        # A server that is killed while others are at it is none of theirs.
        with contextlib.suppress(redis.exceptions.RedisError):
            self.done[way.__name__.replace("_", " ")] += 1
            # Most are over soon, so that many follow on each other.
            way(longest * chance.random() ** 3)

    def pause_redis(self, seconds: float) -> None:
        self.redis.pause()
        self.over.wait(seconds)
        self.redis.resume()

    def restart_redis(self, seconds: float) -> None:
        self.redis.kill()
        self.over.wait(seconds)
        self.redis.start()

    def kill_connections(self, seconds: float) -> None:
        self.redis.kill_clients()

    def fill_redis(self, seconds: float) -> None:
        self.redis.config("maxmemory", "1mb")
        self.over.wait(seconds)
        self.redis.config("maxmemory", "0")

    def eat_packets(self, seconds: float) -> None:
        self.proxy.open.clear()
        self.over.wait(seconds)
        self.proxy.open.set()
        self.proxy.cut()

    def cut_wire(self, seconds: float) -> None:
        self.proxy.cut()

    def flush_redis(self, seconds: float) -> None:
        self.redis.flush()

    def break_process(self, chance: random.Random) -> None:
        """Kill or pause a worker."""
        workers = self.workers()
        if not workers:
            return
        pid = chance.choice(workers)
        way = chance.choice(["pause", "pause", "kill", "end"])
        with contextlib.suppress(ProcessLookupError):
            self.done[f"{way} worker"] += 1
            if way == "pause":
                began = time.monotonic()
                os.kill(pid, signal.SIGSTOP)
                self.over.wait(chance.uniform(0.1, 2.5))
                os.kill(pid, signal.SIGCONT)
                self.pauses.append((pid, began, time.monotonic()))
            else:
                self.killed.add(pid)
                os.kill(pid, signal.SIGKILL if way == "kill" else signal.SIGTERM)

    # Publishing --------------------------------------------------------------------------------------------------

    def post(self, name: str, chance: random.Random) -> None:
        """Publish at whichever worker takes the request, until it is over."""
        number = 0
        while not self.over.wait(chance.uniform(0.0, 0.12)):
            numbers = list(range(number, number := number + chance.randint(1, 5)))
            board = chance.choice(BOARDS)
            body = {"by": name, "numbers": numbers, "filters": {"board_id": board}}
            began = time.monotonic()
            answer: Json | None = None
            with contextlib.suppress(OSError, http.client.HTTPException):
                response = self.server.post("/numbered", body)
                answer = response.json if response.status == 200 else None
            self.note(list(_sent(name, numbers, board, began, answer)))

    def publish_apart(self, chance: random.Random) -> None:
        """Publish from a process of its own, which is killed now and then."""
        number = 0
        while not self.over.is_set():
            command = [sys.executable, "-m", "tests.redis.publishing", self.url]
            with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
                assert running.stdin is not None and running.stdout is not None
                self.done["start publisher"] += 1
                for _ in range(chance.randint(20, 80)):
                    if self.over.wait(chance.uniform(0.0, 0.12)):
                        break
                    numbers = list(range(number, number := number + chance.randint(1, 5)))
                    board = chance.choice(BOARDS)
                    began = time.monotonic()
                    print(
                        json.dumps({"by": "apart", "numbers": numbers, "filters": {"board_id": board}}),
                        file=running.stdin,
                        flush=True,
                    )
                    if chance.random() < 0.02:
                        self.killed.add(running.pid)
                        running.kill()
                    line = running.stdout.readline()
                    answer = {"pid": running.pid, "results": json.loads(line)} if line else None
                    self.note(list(_sent("apart", numbers, board, began, answer)))
                    if answer is None:
                        break
                else:
                    self.done["kill publisher"] += 1
                    self.killed.add(running.pid)
                    running.kill()
                # What it has spooled it may store, within its two seconds.
                with contextlib.suppress(OSError):
                    running.stdin.close()
                self.killed.add(running.pid)

    # The run -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> list[Ear]:
        """Break things for so many seconds, mend them, and return the clients once they have heard the last event."""
        ears = [
            Ear(self, f"{'stays' if number < STAYING else 'roves'}{number}", BOARDS[1] if number % 3 == 0 else None, number >= STAYING)
            for number in range(STAYING + ROVING)
        ]
        ear_threads = [threading.Thread(target=ear.run, name=ear.name) for ear in ears]
        seeds = iter(self.random.sample(range(2**31), 100))

        def forever(action: Callable[[random.Random], None], longest: float) -> Callable[[], None]:
            chance = random.Random(next(seeds))

            def loop() -> None:
                while not self.over.wait(chance.uniform(0.1, longest)):
                    action(chance)

            return loop

        jobs: list[Callable[[], None]] = [forever(self.break_redis, 2.0), forever(self.break_process, 4.0)]
        for number in range(4):
            chance = random.Random(next(seeds))
            jobs.append(lambda name=f"post{number}", chance=chance: self.post(name, chance))  # type: ignore[misc]
        chance = random.Random(next(seeds))
        jobs.append(lambda: self.publish_apart(chance))
        threads = [threading.Thread(target=self._watch, args=(job,)) for job in jobs]
        for thread in ear_threads + threads:
            thread.start()
        try:
            self.over.wait(seconds)
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
            try:
                last = self._end()
            except BaseException:
                last = None
                raise
            finally:
                for ear in ears:
                    ear.end(last)
                for thread in ear_threads:
                    thread.join()
        return ears

    def _watch(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            self.faults.append(f"the test itself failed: {error!r}")
            self.over.set()

    def _end(self) -> str:
        """Wait until all is as it should be, and publish the last event; returns its label."""

        def is_calm() -> bool:
            pids = self.workers()
            if len(pids) != WORKERS:
                return False
            return all(self._is_calm(pid) for pid in pids)

        wait_for(is_calm, lambda: f"the workers to be calm:\n{self.server.log()[-3000:]}")
        began = time.monotonic()
        body = {"by": "last", "numbers": [0], "filters": {"board_id": list(BOARDS)}}
        answer = self.server.post("/numbered", body).json
        self.note(list(_sent("last", [0], "", began, answer)))
        return "last.0"

    def _is_calm(self, pid: int) -> bool:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                response = self.server.get(f"/pid?at={pid}")
                if response.status == 200:
                    stats = response.json["stats"]
                    return not stats["away"] and not stats["spooled"]
        return False


def _sent(by: str, numbers: Sequence[int], board: str, began: float, answer: Json | None) -> Iterator[Sent]:
    ended = time.monotonic()
    results = answer["results"] if answer is not None else [{"n": n, "how": "no answer", "id": None, "took": 0.0} for n in numbers]
    for result in results:
        how = result["how"] or "refused"
        yield Sent(f"{by}.{result['n']}", board, began, ended, how, result["id"], answer["pid"] if answer else 0)


class Ear:
    """Be a client that keeps its position, and everything it hears."""

    def __init__(self, wreck: Wreck, name: str, board: str | None, roves: bool) -> None:
        self.name = name
        self.board = board
        self._wreck = wreck
        self._roves = roves
        self._chance = random.Random(wreck.random.random())
        self.said: list[Said] = []
        self.position: str | None = None
        self._last: str | None = None
        self._ending = threading.Event()
        self.heard_last = False

    def end(self, last: str | None) -> None:
        """End, once that event has been heard; or at once."""
        self._last = last
        # It may have come before the answer of its publisher.
        self.heard_last = any(said.label == last for said in reversed(self.said[-1000:]))
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
        with Raw(HOST, self._wreck.server.port) as raw:
            raw.socket.settimeout(6)
            if raw.open(path).status != 101:
                self._ending.wait(0.05)
                return
            until = time.monotonic() + (self._chance.uniform(0.1, 3.0) if self._roves else 1e9)
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

    def __init__(self, wreck: Wreck, stream: dict[str, str] | None) -> None:
        self._wreck = wreck
        self.sent = {event.label: event for event in wreck.sent}
        #: The ids of the events that are known to be stored: by their publishers' answers, and by the stream where nothing was lost.
        self.ids: dict[str, str] = {event.label: event.id for event in wreck.sent if event.id}
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
                self.faults.append(f"{label} was reported as stored under {id}, and the stream has it under {stream.get(label)}")
        for event in self.sent.values():
            if event.how == "spooled" and event.pid not in self._wreck.killed and event.label not in stream:
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


def _stream(server: Redis) -> dict[str, str]:
    """Return the ids of all events that are stored, by their labels."""
    found: dict[str, str] = {}
    for id, fields in server.do("XRANGE", "cartows:{0}:events", "-", "+"):
        data = json.loads(fields[b"b"])["data"]
        label = f"{data['by']}.{data['n']}"
        assert label not in found, f"{label} is stored twice: {found[label]} and {id!r}"
        found[label] = f"{fields[b'e'].decode()}.{id.decode().partition('-')[0]}"
    return found


def run(seconds: float, seed: int, empty: bool, directory: Path) -> tuple[str, list[str]]:
    """Run it; returns the table of what was done and seen, and what is wrong."""
    wreck = Wreck(directory, seed, empty)
    try:
        ears = wreck.run(seconds)
        judge = Judge(wreck, None if empty else _stream(wreck.redis))
        for ear in ears:
            judge.hear(ear)
        faults = wreck.faults + judge.faults + _slow(wreck)
        if not empty and "has lost events" in wreck.server.log():
            faults.append("Redis has lost nothing, and a worker says that it has:\n" + wreck.server.log()[-5000:])
        problems = [block for block in wreck.server.problems().split("\n") if block and "SIGKILL" not in block]
        if problems:
            faults.append("the server printed:\n" + "\n".join(problems))
    finally:
        wreck.close()
    return _table(wreck, judge, seconds, seed), faults


def _slow(wreck: Wreck) -> list[str]:
    """Return which requests took too long though nobody had paused their worker."""
    found = []
    for event in wreck.sent:
        if event.how == "no answer":
            continue
        paused = any(began < event.ended and event.began < ended for _, began, ended in wreck.pauses)
        most = 5 * (PUBLISH_TIMEOUT + 0.1) + LATE
        if event.ended - event.began > most and not paused:
            found.append(f"the request of {event.label} took {event.ended - event.began:.1f} s")
    return found


def _table(wreck: Wreck, judge: Judge, seconds: float, seed: int) -> str:
    outcomes = Counter(event.how for event in wreck.sent)
    lost = sum(event.how in ("spooled", "no answer") and event.label not in judge.ids for event in wreck.sent)
    rows: list[tuple[str, object]] = [("seed", seed), ("seconds", f"{seconds:g}"), ("Redis", "loses all" if wreck.empty else "keeps all")]
    rows += [(f"done: {name}", count) for name, count in sorted(wreck.done.items())]
    rows += [(f"published: {name}", count) for name, count in sorted(outcomes.items())]
    rows += [("published: spooled or unanswered, and not known to be stored", lost)]
    rows += [(f"clients: {name}", count) for name, count in sorted(judge.counts.items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.redis.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--empty", action="store_true", help="have Redis lose everything now and then")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    with tempfile.TemporaryDirectory() as directory:
        table, faults = run(arguments.seconds, seed, arguments.empty, Path(directory))
    print(table)
    for fault in faults[:20]:
        print(f"\nVIOLATION: {fault}")
    print(f"\n{len(faults)} violations")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

"""Breaking everything but the guarantee: ``python -m tests.backplane.redis.chaos --seconds 60 --seed 1 [--empty]``.

Three gunicorn workers and a process that only publishes send numbered events through one Redis, while that Redis, the proxy to
it, the workers and the publisher are killed, paused, filled up and disconnected. Clients stay, leave, and come back at any
worker. At the end every client must have received each event that was reported as stored once, in order, or have been notified
to reload. What a killed process had only spooled, or never answered for, may be received once or not at all. With ``--empty``
Redis also loses all its data.

The seed decides what is done, in which order and for how long; the exact moments depend on the machine.
"""

from __future__ import annotations

import argparse
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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis.exceptions

from cartows.backplane.redis.event_store import record_of
from tests.support import process
from tests.support.harness import ROOT, Plan, Server
from tests.support.redis.deliveries import DeliveryCheck, RecordingClient, Sent
from tests.support.redis.events import wire_id
from tests.support.redis.server import Proxy, Redis
from tests.support.waiting import wait_until

PUBLISH_TIMEOUT = 0.5

# How much later than that a publisher's answer may be on a busy machine, in seconds, where its worker was not paused.
LATE = 2.0

WORKERS = 3
BOARDS = ("b0", "b1")
STAYING, ROVING = 12, 18

Json = dict[str, Any]


class Chaos:
    """The servers and clients of one run, and its results."""

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
        """Disturb Redis, or the proxy to it, and undo that."""
        ways: list[tuple[Callable[[float], None], float]] = [
            (self.pause_redis, 2.5),
            (self.restart_redis, 1.0),
            (self.kill_connections, 0.0),
            (self.fill_redis, 1.5),
            (self.drop_packets, 2.5),
            (self.cut_connections, 0.0),
        ]
        if self.empty:
            ways += [(self.flush_redis, 0.0), (self.flush_redis, 0.0)]
        way, max_seconds = chance.choice(ways)
        # Another thread may kill the server meanwhile.
        with contextlib.suppress(redis.exceptions.RedisError):
            self.done[way.__name__.replace("_", " ")] += 1
            # Most end soon, so that many follow each other.
            way(max_seconds * chance.random() ** 3)

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

    def drop_packets(self, seconds: float) -> None:
        self.proxy.open.clear()
        self.over.wait(seconds)
        self.proxy.open.set()
        self.proxy.cut()

    def cut_connections(self, seconds: float) -> None:
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
        """Publish at any worker, until the run is over."""
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

    def publish_separately(self, chance: random.Random) -> None:
        """Publish from a process of its own, which is killed now and then."""
        number = 0
        while not self.over.is_set():
            command = [sys.executable, "-m", "tests.support.redis.publishing", self.url]
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
                        json.dumps({"by": "separate", "numbers": numbers, "filters": {"board_id": board}}),
                        file=running.stdin,
                        flush=True,
                    )
                    dies = chance.random() < 0.02
                    if dies:
                        self.killed.add(running.pid)
                        running.kill()
                    # It may have answered before it died.
                    line = running.stdout.readline()
                    answer = {"pid": running.pid, "results": json.loads(line)} if line.endswith("\n") else None
                    self.note(list(_sent("separate", numbers, board, began, answer)))
                    if dies or answer is None:
                        break
                else:
                    self.done["kill publisher"] += 1
                    self.killed.add(running.pid)
                    running.kill()
                # It may still store what it has spooled, within its two seconds.
                with contextlib.suppress(OSError):
                    running.stdin.close()
                self.killed.add(running.pid)

    # The run -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> list[RecordingClient]:
        """Disturb everything for so many seconds, and return the clients once they have received the last event."""
        clients = [
            RecordingClient(
                self.server.port,
                f"{'stays' if number < STAYING else 'roves'}{number}",
                BOARDS[1] if number % 3 == 0 else None,
                random.Random(self.random.random()) if number >= STAYING else None,
            )
            for number in range(STAYING + ROVING)
        ]
        client_threads = [threading.Thread(target=client.run, name=client.name) for client in clients]
        seeds = iter(self.random.sample(range(2**31), 100))

        def repeat(action: Callable[[random.Random], None], max_wait: float) -> Callable[[], None]:
            chance = random.Random(next(seeds))

            def loop() -> None:
                while not self.over.wait(chance.uniform(0.1, max_wait)):
                    action(chance)

            return loop

        jobs: list[Callable[[], None]] = [repeat(self.break_redis, 2.0), repeat(self.break_process, 4.0)]
        for number in range(4):
            chance = random.Random(next(seeds))
            jobs.append(lambda name=f"post{number}", chance=chance: self.post(name, chance))  # type: ignore[misc]
        chance = random.Random(next(seeds))
        jobs.append(lambda: self.publish_separately(chance))
        threads = [threading.Thread(target=self._watch, args=(job,)) for job in jobs]
        for thread in client_threads + threads:
            thread.start()
        last = None
        try:
            try:
                self.over.wait(seconds)
            finally:
                self.over.set()
                for thread in threads:
                    thread.join()
            last = self._end()
        finally:
            for client in clients:
                client.end(last)
            for thread in client_threads:
                thread.join()
        return clients

    def _watch(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            self.faults.append(f"the test itself failed: {error!r}")
            self.over.set()

    def _end(self) -> str:
        """Wait until everything works again, publish the last event, and return its label."""

        def is_calm() -> bool:
            pids = self.workers()
            if len(pids) != WORKERS:
                return False
            return all(self._is_calm(pid) for pid in pids)

        wait_until(is_calm, lambda: f"the workers to be calm:\n{self.server.log()[-3000:]}")
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
    results = (
        answer["results"] if answer is not None else [{"n": n, "status": "no answer", "id": None, "took": 0.0} for n in numbers]
    )
    for result in results:
        status = result["status"] or "rejected"
        yield Sent(f"{by}.{result['n']}", board, began, ended, status, result["id"], answer["pid"] if answer else 0)


def _stream(server: Redis, faults: list[str]) -> dict[str, str]:
    """Return the ids of all events that are stored, by their labels; none may be stored twice."""
    found: dict[str, str] = {}
    for id, fields in server.do("XRANGE", "cartows:{0}:events", "-", "+"):
        data = json.loads(fields[b"b"])["data"]
        label = f"{data['by']}.{data['n']}"
        if label in found:
            faults.append(f"{label} is stored twice: as {found[label]} and as {id.decode()}")
        found[label] = wire_id(record_of(id, fields))
    return found


def run(seconds: float, seed: int, empty: bool, directory: Path) -> tuple[str, list[str]]:
    """Run it; return the table of what was done and received, and the faults."""
    chaos = Chaos(directory, seed, empty)
    try:
        clients = chaos.run(seconds)
        check = DeliveryCheck(chaos.sent, chaos.killed, None if empty else _stream(chaos.redis, chaos.faults))
        for client in clients:
            check.check(client)
        faults = chaos.faults + check.faults + _slow(chaos)
        if not empty and "has lost events" in chaos.server.log():
            faults.append("Redis has lost nothing, and a worker logs that it has:\n" + chaos.server.log()[-5000:])
        problems = [block for block in chaos.server.problems().split("\n") if block and "SIGKILL" not in block]
        if problems:
            faults.append("the server printed:\n" + "\n".join(problems))
    finally:
        chaos.close()
    return _table(chaos, check, seconds, seed), faults


def _slow(chaos: Chaos) -> list[str]:
    """Return which requests took too long although their worker was not paused."""
    found = []
    for event in chaos.sent:
        if event.status == "no answer":
            continue
        paused = any(began < event.ended and event.began < ended for _, began, ended in chaos.pauses)
        limit = 5 * (PUBLISH_TIMEOUT + 0.1) + LATE
        if event.ended - event.began > limit and not paused:
            found.append(f"the request of {event.label} took {event.ended - event.began:.1f} s")
    return found


def _table(chaos: Chaos, check: DeliveryCheck, seconds: float, seed: int) -> str:
    statuses = Counter(event.status for event in chaos.sent)
    lost = sum(event.status in ("spooled", "no answer") and event.label not in check.ids for event in chaos.sent)
    rows: list[tuple[str, object]] = [
        ("seed", seed),
        ("seconds", f"{seconds:g}"),
        ("Redis", "loses everything" if chaos.empty else "keeps everything"),
    ]
    rows += [(f"done: {name}", count) for name, count in sorted(chaos.done.items())]
    rows += [(f"published: {name}", count) for name, count in sorted(statuses.items())]
    rows += [("published: spooled or unanswered, and not known to be stored", lost)]
    rows += [(f"clients: {name}", count) for name, count in sorted(check.counts.items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.backplane.redis.chaos", description=__doc__)
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

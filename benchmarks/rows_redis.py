"""The rows about several workers on one Redis, side by side with Flask-SocketIO and its Redis manager.

Every worker here is a separate gunicorn, as on separate machines, so that the publishing and the receiving one are known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from . import baseline
from .bench import HANDSHAKES, THREADS, Bench, Blast, Row, Scale, deliver, faults
from .processes import Call, Gunicorn, Loadgen, MeasureError, NoRedis, Readers, Redis, redis_server
from .report import Figure, Sample
from .rows_events import CLOSED, FAULTS, MILLION, ROOM, cpu_seconds, pss_kib
from .rows_http import answers

SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket"

# Clients of each worker, in rows that are not about clients.
LISTENERS = 100
FEW = 10
# Request handlers that publish at once in each worker; half of its threads.
PUBLISHERS = 4
COUNTS = (1, 2, 4)
# Connections that simulate additional workers, to measure their cost for Redis.
READERS = 20
# Between two requests, in ms on average.
GAP_MS = 2.0
# Covers one-time costs of a process, such as its connection to Redis.
WARM_UP = Blast(20, hz=100)

# The row `step`: several workers, each with this share of the clients of the row `many`. A client is a thread, and by default
# (kernel.pid_max) Linux allows 32,768 of them.
STEP_WORKERS = 3
STEP_SHARE = 0.8
STEP_WAIT = 300.0

STREAM = "cartows:{0}:events"


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the ways to deliver that are compared."""

    #: The prefix of its figures' keys.
    name: str
    app: str
    #: Flask-SocketIO's async_mode; empty for cartows.
    mode: str = ""

    @contextlib.contextmanager
    def serve(self, bench: Bench, redis: Redis, count: int, clients: int) -> Iterator[list[Gunicorn]]:
        """Run workers, each on a port of its own and able to serve so many clients."""
        env = {"BENCH_REDIS_URL": redis.url, "BENCH_ASYNC_MODE": self.mode}
        options: list[str] = []
        threads = THREADS
        if self.mode:
            options = ["--worker-connections", str(clients + 100)]
        if self.mode == "threading":
            threads = clients + 20  # each client pins one
        if self.mode == "gevent":
            options += ["-k", "gevent"]
        with contextlib.ExitStack() as stack:
            servers = []
            for number in range(count):
                name = f"{self.app}-{number + 1}"
                more: dict[str, Any] = {"python": baseline.socketio_python()} if self.mode else {}
                server = Gunicorn(self.app, threads, *options, env=env, name=name, **more)
                servers.append(stack.enter_context(bench.watched(server)))
            yield servers

    @contextlib.contextmanager
    def connect(
        self, servers: Sequence[Gunicorn], clients: int, rounds: Sequence[int], *options: str, path: str = "/ws"
    ) -> Iterator[list[Loadgen]]:
        """Connect so many clients to each of the workers."""
        protocol = "-e" if self.mode else "-g"
        path = SOCKETIO_PATH if self.mode else path
        with contextlib.ExitStack() as stack:
            loads = []
            for number, server in enumerate(servers):
                name = f"loadgen-{number + 1}"
                load = Loadgen(server.port, clients, rounds, "-j", HANDSHAKES, protocol, *options, path=path, name=name)
                loads.append(stack.enter_context(load))
            for server, load in zip(servers, loads, strict=True):
                load.ready(STEP_WAIT)
                server.await_clients(clients)
            yield loads


CARTOWS = Side("cartows", "cartows_app")
THREADING = Side("threading", "socketio_app", "threading")
GEVENT = Side("gevent", "socketio_app", "gevent")


def _sides(bench: Bench) -> tuple[Side, ...]:
    """Return what is compared: cartows alone if Flask-SocketIO cannot be installed."""
    try:
        bench.note(f"beside it, in an environment of its own: {baseline.versions()}")
    except baseline.NoBaseline as error:
        bench.note(f"not side by side, since Flask-SocketIO could not be installed: {error}")
        return (CARTOWS,)
    return (CARTOWS, THREADING, GEVENT)


def _publish(server: Gunicorn, blast: Blast) -> dict[str, Any]:
    return server.get(blast.path, blast.seconds + 60)


def across(bench: Bench) -> Sample:
    """Publish in a request handler of one worker, to clients of it and of another one."""
    blast = Blast(int(100 * bench.scale.seconds), hz=100)
    sample: dict[str, float] = {}
    for side in _sides(bench):
        with (
            Redis() as redis,
            side.serve(bench, redis, 2, LISTENERS) as servers,
            side.connect(servers, LISTENERS, (WARM_UP.events, blast.events)) as loads,
        ):
            _publish(servers[0], WARM_UP)
            for load in loads:
                load.result(30)
            answer = _publish(servers[0], blast)
            own, other = (load.result(30) for load in loads)
        sample |= {
            f"{side.name}_p50": other["latency_ms"]["p50"],
            f"{side.name}_p99": other["latency_ms"]["p99"],
            f"{side.name}_own_p50": own["latency_ms"]["p50"],
            f"{side.name}_own_p99": own["latency_ms"]["p99"],
        }
        lost = faults({**own, **answer}) + faults({**other, "rejected": 0})
        if side is CARTOWS:
            sample |= {"faults": lost, "closed": own["closed"] + other["closed"]}
        elif lost:
            bench.note(f"Flask-SocketIO, {side.mode}: {lost:.0f} events lost, repeated or out of place")
    with bench.cartows() as server:
        alone = deliver(server, LISTENERS, blast)
    return {**sample, "alone_p50": alone["latency_ms"]["p50"], "alone_p99": alone["latency_ms"]["p99"]}


def workers(bench: Bench) -> Sample:
    """Publish at one, two and four workers at once, with four handlers in each; every worker receives all events."""
    sample: dict[str, float] = {"faults": 0, "closed": 0}
    for side in _sides(bench):
        for count in COUNTS:
            handlers = count * PUBLISHERS
            blast = Blast(bench.scale.flood // handlers)
            total = blast.events * handlers
            # The warm-up of each worker, then the events of all.
            rounds = [WARM_UP.events * count, total]
            one_sided = Blast(bench.scale.flood // PUBLISHERS) if side is CARTOWS and count == 2 else None
            # The cost of an additional reader for Redis is measured with one worker: without other readers, and with some.
            paced = Blast(int(100 * bench.scale.seconds), hz=100) if side is CARTOWS and count == 1 else None
            if paced:
                rounds += [paced.events, paced.events]
            if one_sided:
                rounds.append(one_sided.events * PUBLISHERS)
            # With several publishers only the numbers of cartows show the position of an event.
            options = () if side.mode else ("-n",)
            with (
                Redis() as redis,
                side.serve(bench, redis, count, FEW) as servers,
                side.connect(servers, FEW, rounds, *options) as loads,
            ):
                for server in servers:
                    _publish(server, WARM_UP)
                for load in loads:
                    load.result(30)
                cpu = _cpu_of(servers), cpu_seconds(redis.pid)
                found = _all_at_once(servers, loads, blast)
                spent = _cpu_of(servers) - cpu[0], cpu_seconds(redis.pid) - cpu[1]
                sample[f"{side.name}_{count}"] = min(each["rate"] for each in found) / FEW
                if side is CARTOWS:
                    sample[f"cpu_{count}"] = spent[0] / total * MILLION
                    sample[f"redis_{count}"] = spent[1] / total * MILLION
                    sample["faults"] += sum(map(faults, found))
                    sample["closed"] += sum(each["closed"] for each in found)
                    stored = redis.ask(f"XLEN {STREAM}")
                    sample["memory"] = redis.ask(f"MEMORY USAGE {STREAM} SAMPLES 0") / max(1, stored)
                elif lost := sum(each["lost"] + each["surplus"] for each in found):
                    bench.note(f"Flask-SocketIO, {side.mode}, {count} workers: {lost} deliveries lost or repeated")
                if paced:
                    sample["reader"] = _reader_cost(redis, servers[0], loads[0], paced) * MILLION
                if one_sided:
                    before = cpu_seconds(servers[1].worker)
                    sample["faults"] += sum(map(faults, _all_at_once(servers[:1], loads, one_sided)))
                    sample["receiving"] = (cpu_seconds(servers[1].worker) - before) / rounds[-1] * MILLION
    return sample


def _reader_cost(redis: Redis, server: Gunicorn, load: Loadgen, blast: Blast) -> float:
    """Return the CPU seconds of Redis for one additional reader and event, when events come one by one."""
    spent = []
    for count in (0, READERS):
        with contextlib.nullcontext() if not count else Readers(redis, STREAM, count) as readers:
            before = cpu_seconds(redis.pid)
            _publish(server, blast)
            load.result(30)
            spent.append(cpu_seconds(redis.pid) - before)
    assert readers is not None
    return (spent[1] - spent[0]) / max(1, readers.answers)


def _all_at_once(servers: Sequence[Gunicorn], loads: Sequence[Loadgen], blast: Blast) -> list[dict[str, Any]]:
    """Publish in several handlers of each of these servers, and wait until all clients have the events."""
    limit = 120.0
    calls = [Call(server, blast.path, limit) for server in servers for _ in range(PUBLISHERS)]
    found = [load.result(limit) for load in loads]
    answered = [call.answer(limit) for call in calls]
    if None in answered:
        raise MeasureError("a handler that publishes did not answer")
    refused = sum(each["rejected"] for each in answered if each)
    return [{**each, "rejected": refused if number == 0 else 0} for number, each in enumerate(found)]


def handler(bench: Bench) -> Sample:
    """Measure requests that broadcast, at a worker with and one without Redis, and at Flask-SocketIO."""
    count = bench.scale.probes // 2
    sample: dict[str, float] = {}
    with bench.cartows() as server, CARTOWS.connect([server], LISTENERS, [count + count // 10]) as (load,):
        sample |= _posted(server, "alone", count)
        lost, closed = _left(load)
    for side in _sides(bench):
        with (
            Redis() as redis,
            side.serve(bench, redis, 1, LISTENERS) as servers,
            side.connect(servers, LISTENERS, [count + count // 10]) as loads,
        ):
            sample |= _posted(servers[0], side.name, count)
            if side is CARTOWS:
                lost, closed = (a + b for a, b in zip((lost, closed), _left(loads[0]), strict=True))
    added = sample["cartows_p50"] - sample["alone_p50"]
    return {**sample, "added": added, "faults": lost, "closed": closed}


def _posted(server: Gunicorn, name: str, count: int) -> Sample:
    found = answers(server, "POST /publish", count, gap_ms=GAP_MS)["latency_ms"]
    return {f"{name}_p50": found["p50"], f"{name}_p99": found["p99"]}


def _left(load: Loadgen) -> tuple[float, float]:
    found = load.result(30)
    return faults({**found, "rejected": 0}), float(found["closed"])


def step(bench: Bench) -> Sample:
    """Measure clients on boards at several workers, and events published in one of them."""
    clients = int(bench.scale.many * STEP_SHARE)
    # Every board has ROOM clients at each worker.
    one_by_one = Blast(int(2 * bench.scale.seconds), hz=1, everyone=True)
    boards = clients // ROOM
    to_boards = Blast(bench.scale.flood // boards * boards, boards=boards)
    warm_up = Blast(5, hz=1, everyone=True)
    rounds = [warm_up.events, one_by_one.events, to_boards.each, 0]
    options, path = ("-r", str(ROOM), "-i", "15"), "/ws?board_id=b"
    with Redis() as redis, CARTOWS.serve(bench, redis, STEP_WORKERS, clients) as servers:
        resting = sum(pss_kib(server.worker) for server in servers)
        with CARTOWS.connect(servers, clients, rounds, *options, path=path) as loads:
            memory = sum(pss_kib(server.worker) for server in servers) - resting
            before = _cpu_of(servers)
            time.sleep(2 * bench.scale.seconds)
            idle = (_cpu_of(servers) - before) / (2 * bench.scale.seconds)
            spent, found = [], []
            for blast in (warm_up, one_by_one, to_boards):
                before = _cpu_of(servers)
                answer = _publish(servers[0], blast)
                results = [load.result(STEP_WAIT) for load in loads]
                found.append([{**result, "rejected": answer["rejected"]} for result in results])
                spent.append((_cpu_of(servers) - before) / blast.events)
            connect_s = max(load.connect_s for load in loads)
    return {
        "clients": clients * STEP_WORKERS,
        "memory": memory / clients / STEP_WORKERS,
        "connect": connect_s,
        "idle": idle / clients / STEP_WORKERS * MILLION,
        "p50": max(each["latency_ms"]["p50"] for each in found[1]),
        "p99": max(each["latency_ms"]["p99"] for each in found[1]),
        "all_cpu": spent[1] * MILLION,
        "rate": min(each["rate"] for each in found[2]) / ROOM,
        "cpu": spent[2] * MILLION,
        "faults": sum(faults(each) for results in found for each in results),
        "closed": sum(each["closed"] for each in found[2]),
    }


def _cpu_of(servers: Sequence[Gunicorn]) -> float:
    return sum(cpu_seconds(server.worker) for server in servers)


def _lacking() -> str:
    try:
        redis_server()
    except NoRedis as error:
        return str(error)
    return ""


def _compared(key: str, what: str, unit: str, digits: int) -> tuple[Figure, ...]:
    return (
        Figure(f"threading_{key}", f"Flask-SocketIO on threads: {what}", unit, digits=digits),
        Figure(f"gevent_{key}", f"Flask-SocketIO on gevent: {what}", unit, digits=digits),
    )


def _step_sockets(scale: Scale) -> int:
    return int(scale.many * STEP_SHARE)


ROWS = (
    Row(
        "across",
        "100 events/s published in one worker, 100 clients at it and 100 at another",
        (
            Figure("cartows_p50", "p50 at the other worker", "ms", digits=2),
            Figure("cartows_p99", "p99 at the other worker", "ms", digits=2),
            Figure("cartows_own_p50", "p50 at the same worker", "ms", digits=2),
            Figure("cartows_own_p99", "p99 at the same worker", "ms", digits=2),
            Figure("alone_p50", "p50 without Redis", "ms", digits=2),
            Figure("alone_p99", "p99 without Redis", "ms", digits=2),
            *_compared("p50", "p50 at the other worker", "ms", 2),
            *_compared("p99", "p99 at the other worker", "ms", 2),
            FAULTS,
            CLOSED,
        ),
        across,
        sockets=lambda _: LISTENERS,
        lacking=_lacking,
    ),
    Row(
        "workers",
        "events through 1, 2 and 4 workers on one Redis, four handlers of each publishing",
        (
            *(
                figure
                for count in COUNTS
                for figure in (
                    Figure(
                        f"cartows_{count}", f"{count} worker{'s' * (count > 1)}: events stored and delivered", "/s", digits=0
                    ),
                    *_compared(str(count), f"{count} worker{'s' * (count > 1)}", "/s", 0),
                    Figure(f"cpu_{count}", "CPU of the workers together per event", "µs", digits=0),
                    Figure(f"redis_{count}", "CPU of Redis per event", "µs", digits=0),
                )
            ),
            Figure("receiving", "CPU per event of a worker that only receives", "µs", digits=0),
            Figure("reader", "CPU of Redis per additional worker and event, when events come one by one", "µs", digits=1),
            Figure("memory", "memory of an event in Redis", "bytes", digits=0),
            FAULTS,
            CLOSED,
        ),
        workers,
        sockets=lambda _: FEW,
        lacking=_lacking,
    ),
    Row(
        "handler",
        "HTTP answers of a handler that broadcasts one event to 100 clients",
        (
            Figure("added", "what Redis adds to the p50", "ms", digits=2),
            Figure("alone_p50", "p50 without Redis", "ms", digits=2),
            Figure("alone_p99", "p99 without Redis", "ms", digits=2),
            Figure("cartows_p50", "p50 with Redis", "ms", digits=2),
            Figure("cartows_p99", "p99 with Redis", "ms", digits=2),
            *_compared("p50", "p50", "ms", 2),
            *_compared("p99", "p99", "ms", 2),
            FAULTS,
            CLOSED,
        ),
        handler,
        sockets=lambda _: LISTENERS,
        lacking=_lacking,
    ),
    Row(
        "step",
        f"{STEP_WORKERS} workers, 8,000 clients each, ten at each worker on each of 800 boards",
        (
            Figure("clients", "clients connected", digits=0),
            Figure("memory", "memory each (PSS)", "KiB"),
            Figure("connect", "time to connect all", "s"),
            Figure("idle", "CPU of an idle client, a second: its pings", "µs"),
            Figure("p50", "p50 of a broadcast to all", "ms"),
            Figure("p99", "p99 of a broadcast to all", "ms"),
            Figure("all_cpu", "CPU per broadcast to all, all workers together", "µs", digits=0),
            Figure("rate", "events to one board after another, unpaced", "/s", digits=0),
            Figure("cpu", "CPU per event to a board, all workers together", "µs", digits=0),
            FAULTS,
            CLOSED,
        ),
        step,
        sockets=_step_sockets,
        runs=1,
        on_demand=True,
        lacking=_lacking,
    ),
)

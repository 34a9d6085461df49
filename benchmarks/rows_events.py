"""The rows about the delivery of events to many clients."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .bench import Bench, Blast, Row, deliver, delivery, faults, floor_result, pace_reached
from .processes import Call, Gunicorn, MeasureError
from .report import Figure, Sample

MILLION = 1e6

ROOM = 10

FAULTS = Figure("faults", "events lost, repeated, out of place or refused", at_most=0, every_run=True, digits=0)
CLOSED = Figure("closed", "clients lost", at_most=0, every_run=True, digits=0)


def flood(bench: Bench) -> Sample:
    """Measure floor and cartows one after the other, so that disturbances of the machine affect both."""
    blast = Blast(bench.scale.flood)
    floor = floor_result(bench.scale.clients, blast)
    with bench.cartows() as server:
        found = deliver(server, bench.scale.clients, blast)
    return {
        "ratio": found["rate"] / floor["rate"],
        "rate": found["rate"] / MILLION,
        "floor": floor["rate"] / MILLION,
        "faults": faults(found),
        "closed": found["closed"],
    }


def paced(bench: Bench) -> Sample:
    blast = Blast(int(1000 * bench.scale.seconds), hz=1000)
    floor = floor_result(bench.scale.clients, blast)
    with bench.cartows() as server:
        found = deliver(server, bench.scale.clients, blast)
    return {
        "p50": found["latency_ms"]["p50"],
        "p99": found["latency_ms"]["p99"],
        "floor": floor["latency_ms"]["p99"],
        "pace": blast.events / found["seconds"] if found["seconds"] else 0,
        "faults": faults(found),
        "closed": found["closed"],
    }


def busy(bench: Bench) -> Sample:
    blast = Blast(int(20 * bench.scale.seconds), hz=20)
    with bench.cartows() as server:
        found = _beside_busy(server, bench.scale.clients, blast, blast.seconds + 2)
        if not pace_reached(found, blast):
            bench.note(f"the publisher did not keep 20 events/s: {blast.events} took {found['seconds']:.1f} s")
    # The loop needs seconds per event: its state after a while is enough to show that.
    limit = 2 * bench.scale.seconds
    with bench.flask_sock(bench.scale.clients) as server:
        loop = _beside_busy(server, bench.scale.clients, blast, limit)
    return {
        "p50": found["latency_ms"]["p50"],
        "p99": found["latency_ms"]["p99"],
        "loop": loop["latency_ms"]["p99"],
        "late": 100 * loop["lost"] / (blast.events * bench.scale.clients),
        "faults": faults(found),
        "closed": found["closed"],
    }


def _beside_busy(server: Gunicorn, clients: int, blast: Blast, limit: float) -> dict[str, Any]:
    with delivery(server, clients, blast, limit=limit) as under_way:
        handler = Call(server, f"/busy?s={limit}", limit + 10)
        found = under_way.finish()
        if found["lost"] == 0 and not handler.pending:
            raise MeasureError(f"{server.name}: the busy handler ended before the events did")
    return found


def many(bench: Bench) -> Sample:
    clients, blast = bench.scale.many, Blast(int(2 * bench.scale.seconds), hz=2)
    floor = floor_result(clients, blast)
    with bench.cartows() as server:
        before = pss_kib(server.worker)
        with delivery(server, clients, blast) as under_way:
            memory = pss_kib(server.worker) - before
            found = under_way.finish()
    return {
        "memory": memory / clients,
        "connect": under_way.connect_s,
        "p99": found["latency_ms"]["p99"],
        "floor": floor["latency_ms"]["p99"],
        "faults": faults(found),
        "closed": found["closed"],
    }


def rooms(bench: Bench) -> Sample:
    """One set of clients, ten to a board: events to one board after another, then to all."""
    clients = bench.scale.many
    to_boards = Blast(bench.scale.flood, boards=clients // ROOM)
    # A tenth of the events keep the hub busier, and single events never share a send.
    to_all = Blast(bench.scale.flood // 10, everyone=True)
    one_by_one = Blast(int(2 * bench.scale.seconds), hz=2, everyone=True)
    # The load generator ends with its last round. An empty round keeps the cost of closing so many clients out of the others.
    then, options, path = (to_all, one_by_one, Blast(0)), ("-r", str(ROOM)), "/ws?board_id=b"
    with bench.cartows() as server, delivery(server, clients, to_boards, *options, then=then, path=path) as under_way:
        found, cpu = [], []
        for blast in (to_boards, to_all, one_by_one):
            before = cpu_seconds(server.worker)
            found.append(under_way.finish())
            cpu.append((cpu_seconds(server.worker) - before) / blast.events)
    return {
        "ratio": cpu[0] / cpu[2],
        "rate": found[0]["rate"] / ROOM,
        "cpu": cpu[0] * MILLION,
        "all_rate": found[1]["rate"] / clients,
        "all_cpu": cpu[1] * MILLION,
        "one_cpu": cpu[2] * MILLION,
        "faults": sum(map(faults, found)),
        "closed": found[-1]["closed"],
    }


def deflate(bench: Bench) -> Sample:
    size, clients = 16 * 1024, bench.scale.clients
    with bench.cartows() as server:
        found = deliver(server, clients, Blast(200, size=size), "-z")
    # The loop compresses once per client: a twentieth of the events keeps it about as busy.
    with bench.flask_sock(clients) as server:
        loop = deliver(server, clients, Blast(10, size=size), "-z")
    for name, result in (("cartows", found), ("flask-sock", loop)):
        if result["compressed"] != result["total"]:
            bench.note(f"{name} sent {result['total'] - result['compressed']} of {result['total']} events uncompressed")
    return {
        "ratio": found["rate"] / loop["rate"],
        "rate": found["rate"],
        "loop": loop["rate"],
        "bytes": found["bytes"] / max(1, found["total"]),
        "faults": faults(found),
        "closed": found["closed"],
    }


def stalled(bench: Bench) -> Sample:
    clients, stop = bench.scale.clients, bench.scale.clients // 20
    blast = Blast(int(1000 * bench.scale.seconds), hz=1000)
    alone, growth_alone = _peak_growth(bench, clients, blast)
    beside, growth = _peak_growth(bench, clients, blast, "-s", str(stop))
    return {
        "ratio": beside["latency_ms"]["p99"] / alone["latency_ms"]["p99"],
        "alone": alone["latency_ms"]["p99"],
        "beside": beside["latency_ms"]["p99"],
        "growth": growth,
        "growth_alone": growth_alone,
        "faults": faults(beside),
        "closed": beside["closed"],
    }


def _peak_growth(bench: Bench, clients: int, blast: Blast, *options: str) -> tuple[dict[str, Any], float]:
    """Deliver a blast; return the result, and the worker's peak growth in MiB since all clients were connected."""
    with bench.cartows() as server, delivery(server, clients, blast, *options) as under_way:
        resting = _reset_peak_kib(server.worker)
        found = under_way.finish()
        return found, (_peak_kib(server.worker) - resting) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used so far, user and system, all threads together."""
    # The clock id of clock_getcpuclockid(3): /proc counts in ticks of 10 ms, which is too coarse for single events.
    return time.clock_gettime(~pid << 3 | 2)


def pss_kib(pid: int) -> int:
    """Return the proportional set size: pages shared with gunicorn's master count in part."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def _reset_peak_kib(pid: int) -> int:
    """Reset the kernel's peak of the process, and return its current resident size."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _kib(Path(f"/proc/{pid}/status"), "VmRSS:")


def _peak_kib(pid: int) -> int:
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM:")


def _kib(file: Path, key: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise MeasureError(f"no {key} in {file}")


ROWS = (
    Row(
        "flood",
        "10,000 events to 1,000 clients, unpaced",
        (
            Figure("ratio", "rate, to the C floor's", at_least=0.8, digits=2),
            Figure("rate", "rate", "M/s", digits=2),
            Figure("floor", "C floor's rate", "M/s", digits=2),
            FAULTS,
            CLOSED,
        ),
        flood,
        runs=5,
    ),
    Row(
        "paced",
        "1,000 events/s to 1,000 clients",
        (
            Figure("p50", "p50", "ms"),
            Figure("p99", "p99", "ms", at_most=35),
            Figure("floor", "C floor's p99", "ms"),
            Figure("pace", "events published", "/s", digits=0),
            FAULTS,
            CLOSED,
        ),
        paced,
    ),
    Row(
        "busy",
        "20 events/s to 1,000 clients beside a handler busy in Python",
        (
            Figure("p50", "p50", "ms"),
            Figure("p99", "p99", "ms", at_most=50),
            Figure("loop", "flask-sock loop's p99, of what came in time", "ms", digits=0),
            Figure("late", "flask-sock loop's share that did not", "%", digits=0),
            FAULTS,
            CLOSED,
        ),
        busy,
    ),
    Row(
        "many",
        "10,000 clients",
        (
            Figure("memory", "memory each (PSS)", "KiB", at_most=34),
            Figure("connect", "time to connect all", "s", at_most=10, digits=2),
            Figure("p99", "p99 of a broadcast", "ms", at_most=160),
            Figure("floor", "C floor's p99", "ms"),
            FAULTS,
            CLOSED,
        ),
        many,
        sockets=lambda scale: scale.many,
    ),
    Row(
        "rooms",
        "10,000 clients, ten on each of 1,000 boards",
        (
            Figure("ratio", "CPU of an event to one board, to that of an event to all", "times", at_most=0.01, digits=4),
            Figure("rate", "events to one board after another, unpaced", "/s", digits=0),
            Figure("cpu", "CPU per event", "µs", digits=0),
            Figure("one_cpu", "CPU per event to all, 2 events/s", "µs", digits=0),
            Figure("all_rate", "events to all, unpaced", "/s", digits=0),
            Figure("all_cpu", "CPU per event to all, unpaced: many share a send", "µs", digits=0),
            FAULTS,
            CLOSED,
        ),
        rooms,
        sockets=lambda scale: scale.many,
    ),
    Row(
        "deflate",
        "16 KB events to 1,000 clients that negotiated deflate",
        (
            Figure("ratio", "rate, to the flask-sock loop's", "times", at_least=20),
            Figure("rate", "rate", "/s", digits=0),
            Figure("loop", "flask-sock loop's rate", "/s", digits=0),
            Figure("bytes", "bytes on the wire per event", digits=0),
            FAULTS,
            CLOSED,
        ),
        deflate,
    ),
    Row(
        "stalled",
        "1,000 events/s to 1,000 clients, 5 % of which stopped reading",
        (
            Figure("ratio", "p99 of the others, to that with none stopped", "times", at_most=1.5, digits=2),
            Figure("alone", "p99 with none stopped", "ms"),
            Figure("beside", "p99 of the others", "ms"),
            # The send_queue_bytes of fifty clients; their queues share frames, so it should be far less.
            Figure("growth", "memory growth, peak (RSS)", "MiB", at_most=50),
            Figure("growth_alone", "memory growth with none stopped", "MiB"),
            FAULTS,
            CLOSED,
        ),
        stalled,
        runs=5,
    ),
)

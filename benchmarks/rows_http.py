"""The rows about HTTP answers beside open sockets, at --threads 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .bench import Bench, Blast, Row, delivery, faults
from .processes import Echo, Gunicorn, Loadgen, MeasureError, probe
from .report import Figure, Sample
from .rows_events import CLOSED, FAULTS

THREADS = 4
HUNG_AFTER = 5.0
# Far enough apart for requests to come at any time between two events, which are 10 ms apart.
GAP_MS = 5.0
NOTHING = Blast(0)


def idle(bench: Bench) -> Sample:
    """Measure one server without sockets, then with sockets that receive nothing."""
    with bench.cartows(THREADS) as server:
        without = answers(server, "/hello", bench.scale.probes)
        with delivery(server, bench.scale.clients, NOTHING):
            beside = answers(server, "/hello", bench.scale.probes)
    return {**_compared(without, beside), "loop": _flask_sock_answers()}


def work(bench: Bench) -> Sample:
    # A handler publishes, as in a real app: it holds one of the four threads, and three are left to answer.
    seconds = 2 * bench.scale.seconds
    blast = Blast(int(100 * (seconds + 2)), hz=100)
    with Echo() as echo, bench.cartows(THREADS, {"BENCH_ECHO_PORT": str(echo.port)}) as server:
        without = answers(server, "/work", bench.scale.probes // 2, seconds, GAP_MS)
        with delivery(server, bench.scale.clients, blast) as under_way:
            under_way.start()
            beside = answers(server, "/work", bench.scale.probes // 2, seconds, GAP_MS)
            found = under_way.finish()
    return {
        **_compared(without, beside),
        "events": found["latency_ms"]["p99"],
        "faults": faults(found),
        "closed": found["closed"],
    }


def answers(server: Gunicorn, path: str, count: int, seconds: float = 60.0, gap_ms: float = 0.0) -> dict[str, Any]:
    probe(server, path, count // 10)  # the first requests of a process, and of a thread, include one-time costs
    found = probe(server, path, count, hung_after=HUNG_AFTER, seconds=seconds, gap_ms=gap_ms)
    if found["hung"] or found["failed"]:
        raise MeasureError(f"{server.name}: GET {path} hung or failed: {found}")
    return found


def _compared(without: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, float]:
    return {
        "ratio": beside["latency_ms"]["p99"] / without["latency_ms"]["p99"],
        "without": without["latency_ms"]["p99"],
        "beside": beside["latency_ms"]["p99"],
        "p50_without": without["latency_ms"]["p50"],
        "p50_beside": beside["latency_ms"]["p50"],
    }


def _flask_sock_answers() -> float:
    """Return how many of one request the flask-sock loop answers once each of its threads has a socket."""
    with Gunicorn("flask_sock_app", THREADS) as server, Loadgen(server.port, THREADS, [1], "-l", "30") as load:
        load.ready()
        return float(probe(server, "/hello", 1, hung_after=HUNG_AFTER)["answered"])


def _figures(limit: float) -> tuple[Figure, ...]:
    return (
        Figure("ratio", "p99, to that without sockets", "times", at_most=limit, digits=2),
        Figure("without", "p99 without sockets", "ms", digits=2),
        Figure("beside", "p99 with 1,000 sockets", "ms", digits=2),
        Figure("p50_without", "p50 without sockets", "ms", digits=2),
        Figure("p50_beside", "p50 with 1,000 sockets", "ms", digits=2),
    )


ROWS = (
    Row(
        "idle",
        "HTTP with --threads 4, 1,000 sockets open, idle",
        (
            *_figures(2),
            Figure("loop", f"flask-sock loop, 4 sockets open: answers in {HUNG_AFTER:.0f} s, of 1", digits=0),
        ),
        idle,
    ),
    Row(
        "work",
        "thirty database round trips with --threads 4, 100 events/s to 1,000 sockets",
        (*_figures(3), Figure("events", "p99 of the events meanwhile", "ms"), FAULTS, CLOSED),
        work,
    ),
)

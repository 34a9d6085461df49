"""The row about hostile clients."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from .bench import Bench, Blast, Row, delivery, faults
from .processes import Attackers
from .report import Figure, Sample
from .rows_events import CLOSED, FAULTS

# How often the same clients receive the same events without attackers, then with them.
PHASES = 2

# The minimum time from one round of an attacker's thread to its next, in seconds: with about forty threads at most eighty
# rounds a second, each a handshake and more. How many of those a Python process can answer at all is not measured here.
PAUSE = 0.5


def hostile(bench: Bench) -> Sample:
    """Measure one server and one set of clients: a quiet blast, one under attack, and both again."""
    clients, blast = bench.scale.clients // 5, Blast(int(50 * bench.scale.seconds), hz=50)
    quiet: list[dict[str, Any]] = []
    attacked: list[dict[str, Any]] = []
    rounds = 0
    with bench.cartows() as server, delivery(server, clients, blast, then=[blast] * (2 * PHASES - 1)) as under_way:
        for _ in range(PHASES):
            quiet.append(under_way.finish())
            with Attackers(server.port, blast.seconds + 1, PAUSE) as attackers:
                attackers.ready()
                attacked.append(under_way.finish())
                report = attackers.result(60.0)
            rounds += sum(sum(ends.values()) for ends in report["ends"].values())
            for finding in report["findings"]:
                bench.note(f"an attacker found: {finding}")
    return {
        "ratio": statistics.median(_p99(with_) / _p99(without) for without, with_ in zip(quiet, attacked, strict=True)),
        "quiet": statistics.median(map(_p99, quiet)),
        "attacked": statistics.median(map(_p99, attacked)),
        "rounds": rounds / (PHASES * (blast.seconds + 1)),
        "faults": sum(map(faults, attacked)),
        "closed": attacked[-1]["closed"],
    }


def _p99(found: Mapping[str, Any]) -> float:
    return float(found["latency_ms"]["p99"])


ROWS = (
    Row(
        "hostile",
        "50 events/s to 200 clients, beside eighteen kinds of attack at once",
        (
            Figure("ratio", "p99, to that without attackers", "times", at_most=2, digits=2),
            Figure("quiet", "p99 without attackers", "ms", digits=2),
            Figure("attacked", "p99 with them", "ms", digits=2),
            Figure("rounds", "rounds of attack", "/s", digits=0),
            FAULTS,
            CLOSED,
        ),
        hostile,
    ),
)

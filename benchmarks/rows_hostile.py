"""The row about hostile clients."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from .bench import Bench, Blast, Delivery, Row, delivery, faults
from .processes import Attackers
from .report import Figure, Sample
from .rows_events import CLOSED, FAULTS

# How often the same clients receive the same events without attackers, then with them.
PHASES = 2

# The minimum time from one round of an attacker's thread to its next, in seconds: with about fifty threads at most a hundred
# rounds a second, each a handshake and more. How many of those a Python process can answer at all is not measured here.
PAUSE = 0.5

#: The attacks that cost the server much for few bytes, or few clients; each is measured by itself as well.
COSTLY = ("colliding numbers", "amplification", "endless deflate", "unread in numbers", "long names", "unfinished messages")


def hostile(bench: Bench) -> Sample:
    """Measure one server and one set of clients: a quiet blast and one under attack, by all at once and by each of some."""
    clients, blast = bench.scale.clients // 5, Blast(int(50 * bench.scale.seconds), hz=50)
    quiet: list[dict[str, Any]] = []
    attacked: list[dict[str, Any]] = []
    alone: dict[str, float] = {}
    rounds = 0
    blasts = 2 * (PHASES + len(COSTLY))
    with bench.cartows() as server, delivery(server, clients, blast, then=[blast] * (blasts - 1)) as under_way:
        for _ in range(PHASES):
            quiet.append(under_way.finish())
            result, made = _under_attack(bench, server.port, under_way, blast)
            attacked.append(result)
            rounds += made
        for name in COSTLY:
            before = under_way.finish()
            result, _ = _under_attack(bench, server.port, under_way, blast, name)
            alone[_key(name)] = _p99(result) / _p99(before)
            attacked.append(result)
    return {
        "ratio": statistics.median(_p99(with_) / _p99(without) for without, with_ in zip(quiet, attacked, strict=False)),
        "quiet": statistics.median(map(_p99, quiet)),
        "attacked": statistics.median(map(_p99, attacked[:PHASES])),
        **alone,
        "rounds": rounds / (PHASES * (blast.seconds + 1)),
        "faults": sum(map(faults, attacked)),
        "closed": attacked[-1]["closed"],
    }


def _under_attack(bench: Bench, port: int, under_way: Delivery, blast: Blast, *attacks: str) -> tuple[dict[str, Any], int]:
    """Return the result of a blast beside some attacks, all of them where none is named, and the number of their rounds."""
    with Attackers(port, blast.seconds + 1, PAUSE, attacks) as attackers:
        attackers.ready()
        result = under_way.finish()
        report = attackers.result(60.0)
    for finding in report["findings"]:
        bench.note(f"an attacker found: {finding}")
    return result, sum(sum(ends.values()) for ends in report["ends"].values())


def _key(attack: str) -> str:
    return attack.replace(" ", "_")


def _p99(found: Mapping[str, Any]) -> float:
    return float(found["latency_ms"]["p99"])


ROWS = (
    Row(
        "hostile",
        "50 events/s to 200 clients, beside every kind of attack at once, and beside each that costs much for little",
        (
            Figure("ratio", "p99, to that without attackers", "times", at_most=2, digits=2),
            *(Figure(_key(name), f"p99 beside {name}", "times", at_most=2, digits=2) for name in COSTLY),
            Figure("quiet", "p99 without attackers", "ms", digits=2),
            Figure("attacked", "p99 with all of them", "ms", digits=2),
            Figure("rounds", "rounds of attack", "/s", digits=0),
            FAULTS,
            CLOSED,
        ),
        hostile,
    ),
)

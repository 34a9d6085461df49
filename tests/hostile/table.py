"""What the attacks found, in tables: one line while they last, and then for each attack whether it was held, and by what."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from tests.hostile.attacks import ATTACKS, Attack
from tests.hostile.bystanders import Report


@dataclasses.dataclass(frozen=True)
class Result:
    """What one attack, or several at once, did."""

    attacks: tuple[Attack, ...]
    #: How rounds ended, by attack.
    ends: Mapping[str, Counter[str]]
    report: Report
    problems: Sequence[str]
    #: How much the worker's memory grew at its peak, in bytes; None for a server that cannot be observed.
    peak: int | None = None


def catalogue() -> str:
    """Return every attack and what holds it, as the table of the documentation."""
    rows = [f"| {attack.name} | {attack.what} | {attack.held_by} |" for attack in ATTACKS]
    return "\n".join(["| attack | what it does | held by |", "|---|---|---|", *rows])


def heading() -> str:
    columns = f"{'attack':20} {'rounds':>7} {'events':>8} {'lost':>5} {'closed':>6} {'p99':>8}"
    return f"{columns} {'HTTP':>9} {'slowest':>8} {'memory':>8}"


def line(result: Result) -> str:
    """Return the figures of an attack."""
    report, name = result.report, result.attacks[0].name if len(result.attacks) == 1 else "all together"
    rounds = sum(sum(ends.values()) for ends in result.ends.values())
    answered = f"{report.http - report.http_failed}/{report.http}"
    memory = "" if result.peak is None else f"{result.peak >> 20} MiB"
    return (
        f"{name:20} {rounds:7} {report.published * report.clients:8} {report.lost:5} {report.disconnected:6} "
        f"{report.p99 * 1000:5.0f} ms {answered:>9} {report.http_slowest:6.2f} s {memory:>8}"
    )


def summary(results: Sequence[Result]) -> str:
    """Return for each attack what held it, how its rounds ended, and what went wrong."""
    lines = [f"{'attack':20} {'held':4} by, and how the rounds ended"]
    for result in results:
        held = "no" if result.problems else "yes"
        for attack in result.attacks:
            ends = ", ".join(f"{count} x {end}" for end, count in result.ends[attack.name].most_common(6))
            lines.append(f"{attack.name:20} {held:4} {attack.held_by.replace('`', '')} ({ends})")
        lines += [f"{'':20}    ! {problem}" for problem in result.problems]
    found = sum(bool(result.problems) for result in results)
    lines.append("The well-behaved clients lost nothing." if not found else "There are problems: see the lines with !")
    return "\n".join(lines)

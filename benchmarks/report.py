"""The results: figures with their spread and their target, the table, and the JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# The values of one run, by figure key.
Sample = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a row, and its target."""

    key: str
    label: str
    unit: str = ""
    #: The target; None for a figure that only serves for comparison.
    at_most: float | None = None
    at_least: float | None = None
    #: The worst run has to reach the target instead of the median: nothing may be lost in any run.
    every_run: bool = False
    digits: int = 1

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:,.{self._target_digits(self.at_most)}f} {self.unit}".rstrip()
        if self.at_least is not None:
            return f"≥ {self.at_least:,.{self._target_digits(self.at_least)}f} {self.unit}".rstrip()
        return ""

    def reached(self, values: Sequence[float]) -> bool | None:
        if self.at_most is not None:
            return (max(values) if self.every_run else statistics.median(values)) <= self.at_most
        if self.at_least is not None:
            return (min(values) if self.every_run else statistics.median(values)) >= self.at_least
        return None

    def written(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"

    @staticmethod
    def _target_digits(value: float) -> int:
        return 0 if value == int(value) else 2


@dataclasses.dataclass
class Outcome:
    """The results of one row."""

    name: str
    title: str
    figures: Sequence[Figure]
    samples: list[Sample]
    #: Sentences below the table, such as why a row was skipped, or errors of a server.
    notes: list[str]
    #: The number of failed runs.
    failed: int = 0
    seconds: float = 0.0
    #: CPUs that other processes used in the most disturbed run that counts.
    others: float = 0.0

    def values(self, figure: Figure) -> list[float]:
        return [sample[figure.key] for sample in self.samples if figure.key in sample]

    def lines(self) -> list[str]:
        found = []
        title = self.title
        for figure in self.figures:
            values = self.values(figure)
            if not values:
                continue
            reached = figure.reached(values)
            spread = f"{figure.written(min(values))} .. {figure.written(max(values))}"
            cells = (
                title,
                figure.label,
                f"{figure.written(statistics.median(values))} {figure.unit}".rstrip(),
                spread,
                figure.target,
                "" if reached is None else "yes" if reached else "**no**",
            )
            found.append("| " + " | ".join(cells) + " |")
            title = ""
        return found or [f"| {self.title} | not measured | | | | |"]

    def as_json(self) -> dict[str, Any]:
        figures = []
        for figure in self.figures:
            if values := self.values(figure):
                figures.append(
                    {
                        "key": figure.key,
                        "label": figure.label,
                        "unit": figure.unit,
                        "median": statistics.median(values),
                        "values": values,
                        "target": figure.target,
                        "reached": figure.reached(values),
                    }
                )
        return {
            "name": self.name,
            "title": self.title,
            "seconds": round(self.seconds, 1),
            "others_cpus": round(self.others, 2),
            "figures": figures,
            "notes": self.notes,
        }


def table(outcomes: Sequence[Outcome]) -> str:
    lines = ["| row | figure | median | min .. max | target | reached |", "|---|---|--:|--:|--:|---|"]
    for outcome in outcomes:
        lines += outcome.lines()
    lines.append("")
    for outcome in outcomes:
        took = f"{outcome.seconds:.0f} s, other processes used {outcome.others:.2f} CPUs at most"
        lines.append(f"- {outcome.name}: {took}")
        lines += [f"  - {note}" for note in outcome.notes]
    return "\n".join(lines)

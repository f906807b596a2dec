"""What was measured, as numbers and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.report import lines_up, number


@dataclass
class Figure:
    """One line of the table."""

    name: str
    value: float | str
    unit: str = ""


@dataclass
class Report:
    """What one programme has found; `faults` are what must not be."""

    name: str
    figures: list[Figure]
    faults: list[str]

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def table(self) -> str:
        """For readers."""
        rows = [[f.name, f.unit, number(f.value) if not isinstance(f.value, str) else f.value] for f in self.figures]
        verdict = [f"FAULT: {fault}" for fault in self.faults] or ["nothing is left over, nothing was lost"]
        lines = lines_up([[name, value, unit] for name, unit, value in rows]) if rows else []
        return "\n".join([self.name, *(f"  {line}" for line in [*lines, *verdict])])


def percentiles(name: str, seconds: Iterable[float]) -> list[Figure]:
    """Median, 99th percentile and maximum of latencies, in milliseconds."""
    found = sorted(each * 1000 for each in seconds)
    if not found:
        return [Figure(name, "none")]
    high = found[min(len(found) - 1, len(found) * 99 // 100)]
    kinds = {"p50": statistics.median(found), "p99": high, "max": found[-1]}
    return [Figure(f"{name}, {kind}", value, "ms") for kind, value in kinds.items()]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares through the points without the first third: how much `y` grows with `x`."""
    used = [(x, y) for x, y in points if x >= points[-1][0] / 3]
    middle = statistics.fmean([x for x, _ in used]) if used else 0.0
    above = sum((x - middle) * y for x, y in used)
    below = sum((x - middle) ** 2 for x, _ in used)
    return above / below if below else 0.0

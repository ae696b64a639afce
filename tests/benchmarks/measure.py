"""Medians of short runs, and a table of ours against what it is compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


def median_seconds(action: Callable[[], object], *, runs: int, warm: int = 1) -> float:
    """The median time of one call, after some that don't count."""
    for _ in range(warm):
        action()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@dataclass(frozen=True)
class Row:
    """One figure: ours, and what it is compared with; seconds, or a rate where `rate`."""

    what: str
    ours: float
    other: str
    theirs: float
    rate: bool = False

    @property
    def cells(self) -> list[str]:
        """The row of the table. The ratio is ours by theirs, as the figures are written."""
        write = _rate if self.rate else _time
        return [self.what, write(self.ours), self.other, write(self.theirs), f"{self.ours / self.theirs:.2g} x"]


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s"


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    head = ["figure", "here", "compared with", "there", "ratio"]
    lines = [head, ["---"] * len(head), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

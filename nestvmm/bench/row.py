"""One line of a benchmark's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nestvmm.bench.paired import estimate, ratios

__all__ = ["Row", "compare"]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured, and how it compares.

    median, unit:        the median: microseconds (us), milliseconds (ms) or TSC ticks (ticks); None: not measured
    against:             what the ratio is to; empty where there is none
    ratio, low, high:    the median of the pairs' ratios and its 95 % interval; None: no ratio, or too few pairs
    goal:                the most that the ratio should be
    samples:             how many pairs, or measurements
    note:                why it was not measured
    """

    what: str
    unit: str
    median: float | None = None
    against: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    samples: int = 0
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None: there is none, or no ratio."""
        return None if self.goal is None or self.ratio is None else self.ratio <= self.goal

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "met": self.met}


def compare(
    what: str,
    unit: str,
    samples: Sequence[float],
    *,
    against: str = "",
    references: Sequence[float] = (),
    goal: float | None = None,
) -> Row:
    """The row of samples, each of which was taken in turn with the reference of the same index, if there are any."""
    row = Row(what, unit, estimate(samples).median, against, goal=goal, samples=len(samples))
    if not references:
        return row
    ratio = estimate(ratios(samples, references))
    return replace(row, ratio=ratio.median, low=ratio.low, high=ratio.high)

"""One line of a benchmark's result: what was measured, every run of it, and how it compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from statistics import quantiles
from typing import Any

from nestvmm.bench.conform import conform
from nestvmm.bench.paired import Estimate, estimate, ratios

__all__ = ["CASCADE", "FLAT", "NESTVMM", "Row", "compare"]

NESTVMM = "nestvmm"
FLAT, CASCADE = "flat", "cascade"

# Outliers lie further outside the quartiles than so many times the distance between these (Tukey, Exploratory Data
# Analysis, 2D); fewer runs than this have none.
_FENCE = 1.5
_RUNS_FOR_OUTLIERS = 4


@dataclass(frozen=True)
class Row:
    """A figure. Empty texts and None: does not apply, or is not known.

    case:           what was measured, by the name that `nestvmm bench --list` has
    what:           which variant of it, in words
    system:         whose figure: nestvmm, a bare loop, QEMU/KVM, published
    engine:         direct, svm or vmx; a peer's: kvm
    level:          the level of the guest that causes the exit: the tower's height
    handler:        what serves it: C, Python, image (machine code), KVM, or a peer's name
    handler_level:  the level of that; 0: L0
    mode:           flat or cascade
    clock:          who took the time: guest (by RDTSC around the instruction), L0, or host (wall-clock time)
    unit:           cycles (TSC ticks; instructions under icount), us, ms or s
    us_per_unit:    microseconds of one unit
    runs:           the figure of each run, in order; none: not measured, and `note` says why
    against:        what the ratio is to
    ratio:          the median of the ratios of each run to the other's run of the same index
    ratio_low, ratio_high:  its 95 % interval
    goal:           the most that the ratio should be
    note:           why it was not measured, or what to know about it
    source:         where a figure that was not measured here is from
    """

    case: str
    what: str = ""
    system: str = NESTVMM
    engine: str = ""
    level: int | None = None
    handler: str = ""
    handler_level: int | None = None
    mode: str = ""
    clock: str = ""
    unit: str = "cycles"
    us_per_unit: float | None = None
    runs: tuple[float, ...] = ()
    against: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    goal: float | None = None
    note: str = ""
    source: str = ""

    @cached_property
    def _estimate(self) -> Estimate:
        return estimate(self.runs)

    @property
    def minimum(self) -> float | None:
        """The least run."""
        return min(self.runs, default=None)

    @property
    def median(self) -> float | None:
        """The median of the runs."""
        return self._estimate.median if self.runs else None

    @property
    def low(self) -> float | None:
        """The lower end of the median's 95 % interval; None: too few runs."""
        return self._estimate.low if self.runs else None

    @property
    def high(self) -> float | None:
        """Its upper end."""
        return self._estimate.high if self.runs else None

    @cached_property
    def outliers(self) -> tuple[int, ...]:
        """The indexes of runs outside Tukey's fences. They count in every figure: medians shrug them off."""
        if len(self.runs) < _RUNS_FOR_OUTLIERS:
            return ()
        first, _, third = quantiles(self.runs, n=4, method="inclusive")
        reach = _FENCE * (third - first)
        return tuple(index for index, run in enumerate(self.runs) if not first - reach <= run <= third + reach)

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None: there is none, or no ratio."""
        return None if self.goal is None or self.ratio is None else self.ratio <= self.goal

    def microseconds(self, value: float | None) -> float | None:
        """A value in `unit` as microseconds."""
        return None if value is None or self.us_per_unit is None else value * self.us_per_unit

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields, and what follows from them."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found["runs"] = list(self.runs)
        derived = {name: getattr(self, name) for name in _DERIVED}
        return {**found, **derived, "outliers": list(self.outliers)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """What `as_dict` gave. Raises KeyError or TypeError for anything else."""
        return conform(cls, data)


_DERIVED = ("minimum", "median", "low", "high", "met")


def compare(row: Row, other: Row, goal: float | None = None) -> Row:
    """The row with its ratio to another whose runs were taken in turn with its own."""
    ratio = estimate(ratios(row.runs, other.runs))
    against = other.what or other.system
    return replace(row, against=against, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high, goal=goal)

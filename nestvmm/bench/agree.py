"""Whether two runs of a benchmark agree: how far apart the medians of the same figure are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nestvmm.bench.row import Row
from nestvmm.errors import UsageError

__all__ = ["Pair", "pairs"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure of both runs."""

    first: Row
    second: Row

    @property
    def name(self) -> str:
        """Which figure, in words."""
        first = self.first
        return f"{first.case}: {first.what}" if first.what else f"{first.case}: {first.system}, L{first.level}"

    @property
    def apart(self) -> float:
        """How much the greater median is above the other, in percent; infinite where only one of them is 0."""
        low, high = sorted((self.first.median or 0.0, self.second.median or 0.0))
        if low == high:
            return 0.0
        return (high / low - 1) * 100 if low else float("inf")


def pairs(first: Iterable[Row], second: Iterable[Row]) -> list[Pair]:
    """All figures that were measured, the farthest apart first. UsageError: a figure is in one of the runs only."""
    ones, others = _measured(first), _measured(second)
    alone = [key for key in (*ones, *others) if (key in ones) != (key in others)]
    if alone:
        name = Pair(*2 * ((ones | others)[alone[0]],)).name
        raise UsageError(f"{name}: only one of the two runs has it; compare runs of the same cases")
    return sorted((Pair(row, others[key]) for key, row in ones.items()), key=lambda pair: -pair.apart)


def _measured(rows: Iterable[Row]) -> dict[tuple[object, ...], Row]:
    """By what tells figures apart; without those that are from elsewhere."""
    return {_identity(row): row for row in rows if row.runs and not row.source}


def _identity(row: Row) -> tuple[object, ...]:
    whose = (row.case, row.what, row.system, row.engine, row.level)
    return (*whose, row.handler, row.handler_level, row.mode, row.clock, row.unit, row.against)

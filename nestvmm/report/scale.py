"""Axes: values to places, and the values that are marked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Linear", "Log"]

# Of floats, to either side of 1.
_DECADES = 307


@dataclass(frozen=True, slots=True)
class Log:
    """A logarithmic axis from `first` to `last`, powers of ten, at the places `start` to `end`."""

    first: float
    last: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> Log:
        """The least that has all of these positive values, one decade at least."""
        positive = [value for value in values if value > 0] or [1.0]
        least, most = min(positive), max(positive)
        low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
        # a logarithm is rounded, so that next to a power of ten it may be that power's
        low -= 10.0**low > least
        high += high < _DECADES and 10.0**high < most
        low, high = max(low, -_DECADES), min(max(high, low + 1), _DECADES)
        return cls(10.0**low, 10.0**high, start, end)

    def at(self, value: float) -> float:
        """The place of a value; one below the axis, as an interval's end at 0 is, is at its start."""
        share = math.log10(max(value, self.first) / self.first) / math.log10(self.last / self.first)
        return self.start + share * (self.end - self.start)

    def marks(self) -> list[float]:
        """Powers of ten, ten at most."""
        low, high = round(math.log10(self.first)), round(math.log10(self.last))
        step = (high - low) // 10 + 1
        return [10.0**power for power in range(low, high + 1, step)]


@dataclass(frozen=True, slots=True)
class Linear:
    """An axis from 0 to `last`."""

    last: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value."""
        return self.start + value / self.last * (self.end - self.start)

    def marks(self) -> list[float]:
        """Five to ten round values."""
        step: float = 10 ** math.floor(math.log10(self.last))
        while self.last / step < 5:
            step /= 2
        return [number * step for number in range(int(self.last / step) + 1)]

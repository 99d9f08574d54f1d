"""Medians of paired samples, with intervals that assume nothing about how a busy machine disturbs them.

Two things that are measured in turn are disturbed alike: the ratio of each pair holds even while the machine's speed
drifts, and the median of these ratios shrugs off the pairs that something else interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

__all__ = ["Estimate", "estimate", "ratios"]


class Estimate(NamedTuple):
    """A median, and the interval that holds the true one with at least 95 % confidence; None: too few samples."""

    median: float
    low: float | None
    high: float | None


def estimate(samples: Sequence[float]) -> Estimate:
    """The samples' median and its interval by order statistics (exact for any continuous distribution).

    With n samples, the k-th smallest lies above the true median when fewer than k of n fair coins show heads; the
    interval goes from the k-th smallest to the k-th largest for the greatest k where that is at most 2.5 % likely.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    k = _rank(len(ordered))
    if k == 0:
        return Estimate(median(ordered), None, None)
    return Estimate(median(ordered), ordered[k - 1], ordered[-k])


def _rank(count: int) -> int:
    """The greatest k with P(Binomial(count, 1/2) < k) <= 0.025; 0, which every k meets, for less than 6 samples."""
    k = 0
    below = math.comb(count, k)
    while 40 * below <= 2**count:
        k += 1
        below += math.comb(count, k)
    return k


def ratios(samples: Sequence[float], references: Sequence[float]) -> list[float]:
    """Each sample divided by the reference of the same pair."""
    return [sample / reference for sample, reference in zip(samples, references, strict=True)]

"""Medians and their intervals: exact."""

from __future__ import annotations

import math
import random
from itertools import product
from statistics import median

import pytest

from nestvmm.bench.paired import Estimate, estimate, ratios


def test_ratios_are_pair_by_pair() -> None:
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 8.0]) == [2.0, 3.0, 0.5]


def test_pairs_must_be_complete() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_drift_that_both_sides_share_does_not_show() -> None:
    drift = [1.0 + step / 10 for step in range(40)]
    samples, references = [3.0 * speed for speed in drift], [2.0 * speed for speed in drift]
    assert estimate(ratios(samples, references)).median == pytest.approx(1.5, rel=1e-12)


def test_disturbed_pairs_do_not_move_the_median() -> None:
    clean = [1.25] * 30
    assert estimate([*clean, 70.0, 0.01, 9.0]) == Estimate(1.25, 1.25, 1.25)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # tables of the sign test, such as Conover, Practical Nonparametric Statistics: ranks of the 95 % interval
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (20, 6, 15), (25, 8, 18), (50, 18, 33), (100, 40, 61)],
)
def test_the_interval_is_the_one_of_the_order_statistics(count: int, low: int, high: int) -> None:
    ranks = list(range(1, count + 1))
    random.Random(count).shuffle(ranks)
    assert estimate(ranks) == Estimate((count + 1) / 2, low, high)


@pytest.mark.parametrize("count", range(1, 6))
def test_too_few_samples_have_no_interval(count: int) -> None:
    assert estimate([1.0] * count) == Estimate(1.0, None, None)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="no samples"):
        estimate([])


@pytest.mark.parametrize("count", range(6, 15))
def test_the_interval_misses_the_median_as_rarely_as_it_says(count: int) -> None:
    """Over all ways in which samples can fall below (-1) or above (1) a true median of 0."""
    found = [estimate(signs) for signs in product((-1, 1), repeat=count)]
    missed = sum(1 for one in found if one.low is None or one.high is None or not one.low <= 0 <= one.high)
    assert missed / 2**count <= 0.05
    # and it is the narrowest such: one rank further in would miss too often
    inner = sum(math.comb(count, k) for k in range(_rank_of(count) + 1))
    assert 2 * inner / 2**count > 0.05


def _rank_of(count: int) -> int:
    low = estimate(range(1, count + 1)).low
    assert low is not None
    return int(low)


def test_thousands_of_samples() -> None:
    samples = [random.Random(1).random() for _ in range(3)] * 1000
    found = estimate(samples)
    assert found.median == median(samples)
    assert found.low == found.high == found.median

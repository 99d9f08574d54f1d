"""The round trips' rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvmm.bench.case import Choice
from nestvmm.bench.trips import RoundTrips


def choice(*heights: int, engines: tuple[str, ...] = ("direct",)) -> Choice:
    return Choice(engines, Path(), 1000.0, heights=heights, runs=6)


@pytest.mark.kvm
def test_rows_of_a_tiny_run() -> None:
    (step,) = RoundTrips(trips=10).steps(choice())
    rows = step.measure()
    heights = [4, 8, 16]
    python = "served in Python"
    assert [row.what for row in rows] == [
        "bare loop",
        "bare loop in Python",
        "served in C",
        python,
        *(f"{python} at L1, guest at L{height}" for height in heights),
        *(f"{python} at L{height - 1}, guest at L{height}" for height in heights),
    ]
    assert [row.against for row in rows] == ["", *["bare loop"] * 3, *[python] * 6]
    assert [row.goal for row in rows] == [None, None, 1.1, 1.6, *[1.1] * 6]
    assert [(row.level, row.handler_level) for row in rows[:4]] == [(1, None), (1, None), (2, 0), (2, 1)]
    assert {(row.case, row.engine, row.clock, row.unit, len(row.runs)) for row in rows} == {
        ("round-trip", "direct", "L0", "cycles", 6)
    }
    assert rows[0].ratio is None
    for row in rows[1:]:
        assert row.ratio is not None
        assert row.ratio_low is not None
        assert row.ratio_high is not None
        assert 0 < row.ratio_low <= row.ratio <= row.ratio_high
    # a port exit is thousands of cycles
    assert rows[0].median is not None
    assert rows[0].median > 500


@pytest.mark.kvm
def test_heights_that_were_asked_for() -> None:
    (step,) = RoundTrips(trips=5).steps(choice(1, 2, 3))
    assert [(row.level, row.handler_level) for row in step.measure()] == [
        *((1, None), (1, None), (2, 0), (2, 1), (3, 1), (3, 2)),
    ]


def test_nothing_without_the_engine() -> None:
    assert list(RoundTrips().steps(choice(engines=("svm",)))) == []

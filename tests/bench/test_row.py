"""The lines of a result."""

from __future__ import annotations

import json

import pytest

from nestvmm.bench.row import Row, compare

RUNS = (2.0, 3.0, 4.0, 2.0, 3.0, 4.0)
ROW = Row("cpuid", "in C", engine="svm", level=2, handler="C", handler_level=0, us_per_unit=0.5, runs=RUNS)


def test_what_follows_from_the_runs() -> None:
    assert (ROW.minimum, ROW.median, ROW.low, ROW.high, ROW.outliers) == (2.0, 3.0, 2.0, 4.0, ())
    assert ROW.microseconds(ROW.median) == 1.5


def test_without_runs_there_is_nothing() -> None:
    row = Row("cpuid")
    assert (row.minimum, row.median, row.low, row.high, row.outliers, row.met) == (None, None, None, None, (), None)
    assert row.microseconds(row.median) is None


def test_a_comparison() -> None:
    bare = Row("cpuid", "bare", runs=(1.0, 2.0, 2.0) * 2)
    row = compare(ROW, bare, 2.0)
    assert (row.against, row.ratio, row.ratio_low, row.ratio_high, row.goal, row.met) == (
        "bare",
        2.0,
        1.5,
        2.0,
        2.0,
        True,
    )


def test_runs_that_were_not_taken_in_turn_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare(ROW, Row("cpuid", runs=(1.0,)))


@pytest.mark.parametrize(
    ("ratio", "goal", "met"), [(1.1, 1.1, True), (1.1001, 1.1, False), (None, 1.1, None), (1.0, None, None)]
)
def test_whether_a_goal_is_met(ratio: float | None, goal: float | None, met: bool | None) -> None:
    assert Row("x", ratio=ratio, goal=goal).met is met


# Quartiles 10 and 12 (of 1 to 9 values, by hand): the fences are at 7 and 15.
@pytest.mark.parametrize(("last", "found"), [(15.0, ()), (15.1, (8,)), (7.0, ()), (6.9, (8,)), (1000.0, (8,))])
def test_outliers_lie_outside_the_fences(last: float, found: tuple[int, ...]) -> None:
    low = last < 10
    inner = (10.0, 10.0, 10.0, 11.0, 11.0, 12.0, 12.0, 12.0)
    row = Row("x", runs=(*inner, last))
    assert row.outliers == found, low


def test_outliers_count() -> None:
    row = Row("x", runs=(1.0, 1.0, 1.0, 1.0, 1.0, 9.0))
    assert (row.outliers, row.high, len(row.runs)) == ((5,), 9.0, 6)


def test_three_runs_have_no_outliers() -> None:
    assert Row("x", runs=(1.0, 1.0, 99.0)).outliers == ()


def test_json_and_back() -> None:
    row = compare(ROW, Row("cpuid", "bare", runs=RUNS), 1.5)
    data = json.loads(json.dumps(row.as_dict()))
    assert data == {
        "case": "cpuid",
        "what": "in C",
        "system": "nestvmm",
        "engine": "svm",
        "level": 2,
        "handler": "C",
        "handler_level": 0,
        "mode": "",
        "clock": "",
        "unit": "cycles",
        "us_per_unit": 0.5,
        "runs": [2.0, 3.0, 4.0, 2.0, 3.0, 4.0],
        "against": "bare",
        "ratio": 1.0,
        "ratio_low": 1.0,
        "ratio_high": 1.0,
        "goal": 1.5,
        "note": "",
        "source": "",
        "minimum": 2.0,
        "median": 3.0,
        "low": 2.0,
        "high": 4.0,
        "met": True,
        "outliers": [],
    }
    assert Row.from_dict(data) == row

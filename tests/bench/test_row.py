"""The lines of a result."""

from __future__ import annotations

import json

import pytest

from nestvmm.bench.row import Row, compare


def test_a_comparison() -> None:
    row = compare("exit", "us", [2.0, 3.0, 4.0] * 2, against="bare", references=[1.0, 2.0, 2.0] * 2, goal=2.0)
    assert row == Row("exit", "us", 3.0, "bare", 2.0, 1.5, 2.0, 2.0, 6)
    assert row.met is True


def test_without_references_there_is_no_ratio() -> None:
    row = compare("bare", "us", [2.0, 4.0])
    assert row == Row("bare", "us", 3.0, samples=2)
    assert row.met is None


@pytest.mark.parametrize(
    ("ratio", "goal", "met"), [(1.1, 1.1, True), (1.1001, 1.1, False), (None, 1.1, None), (1.0, None, None)]
)
def test_whether_a_goal_is_met(ratio: float | None, goal: float | None, met: bool | None) -> None:
    assert Row("x", "us", 1.0, "y", ratio, goal=goal).met is met


def test_json() -> None:
    row = Row("exit", "us", 3.0, "bare", 2.0, None, None, 1.5, 1)
    assert json.loads(json.dumps(row.as_dict())) == {
        "what": "exit",
        "unit": "us",
        "median": 3.0,
        "against": "bare",
        "ratio": 2.0,
        "low": None,
        "high": None,
        "goal": 1.5,
        "samples": 1,
        "note": "",
        "met": False,
    }

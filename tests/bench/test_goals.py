"""Goals: whose rows they judge, and how."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import pytest

from nestvmm.bench import CASES, Document, Row
from nestvmm.bench.document import here
from nestvmm.bench.goals import (
    DEPTH,
    GOALS,
    PORT_IN_C,
    PORT_IN_PYTHON,
    PORT_UP_TOWERS,
    SWITCH_IN_PYTHON,
    Goal,
    verdicts,
)
from nestvmm.bench.row import compare
from nestvmm.cli.bench_table import print_document

RUNS = (100.0,) * 10
BARE = Row("any", "bare", runs=RUNS)


def judged(goal: Goal, ratio: float, what: str = "") -> Row:
    runs = tuple(ratio * run for run in RUNS)
    return compare(Row(goal.case, what or goal.about, handler=goal.handler, runs=runs), BARE, goal.most)


def results(rows: Iterable[Row]) -> dict[Goal, tuple[float | None, bool | None]]:
    return {
        one.goal: (one.worst.ratio, one.met) for one in verdicts(rows) if one.worst is not None or one.met is not None
    }


def test_no_row_is_of_two_goals() -> None:
    for one, other in combinations(GOALS, 2):
        assert not other.is_of(judged(one, 1)), (one, other)
        assert one.is_of(judged(one, 1))


def test_every_goal_is_a_case_s() -> None:
    assert {goal.case for goal in GOALS} <= {case.name for case in CASES}


def test_the_worst_row_decides() -> None:
    rows = [judged(PORT_UP_TOWERS, ratio) for ratio in (1.0, 1.2, 0.9)]
    rows += [judged(PORT_IN_C, 1.1), judged(PORT_IN_PYTHON, 1.61), BARE, Row(DEPTH.case, "failed", note="failed")]
    assert results(rows) == {
        PORT_UP_TOWERS: (pytest.approx(1.2), False),
        PORT_IN_C: (pytest.approx(1.1), True),
        PORT_IN_PYTHON: (pytest.approx(1.61), False),
    }
    assert results([BARE]) == {}


def test_the_table_has_those_that_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    def table(*rows: Row) -> list[list[str]]:
        print_document(Document((), "", 1.0, {}, here(), rows), {})
        lines = capsys.readouterr().out.splitlines()
        return [line.split("  ") for line in lines[lines.index("goals") + 3 : -1]] if "goals" in lines else []

    assert table(BARE) == []
    found = table(judged(SWITCH_IN_PYTHON, 5.1), judged(DEPTH, 1.004), judged(DEPTH, 1.001))
    assert [[word.strip() for word in line if word.strip()] for line in found] == [
        [f"switch: {SWITCH_IN_PYTHON.about}", "<= 1.40", "5.100", "missed"],
        [f"depth: {DEPTH.about}", "<= 1.10", "1.004", "met"],
    ]

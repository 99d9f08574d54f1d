"""What tracing costs, and the parts of an exit: the cases with a few trips. What they take, test_bench_lab.py has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nestvmm.bench import tracing
from nestvmm.bench.case import Choice
from nestvmm.bench.tracing import PARTS, Parts, Tracing
from nestvmm.trace import Recorder
from nestvmm.trace.reader import read_trace

CHOICE = Choice(("direct",), Path(), 2000.0, runs=10)


def test_steps_by_engine_and_handler() -> None:
    choice = Choice(("direct", "svm"), Path(), 2000.0)
    assert [step.name for step in Parts().steps(choice)] == ["direct, C", "direct, Python", "svm, C", "svm, Python"]
    assert [step.name for step in Tracing().steps(choice)] == ["direct"]
    assert list(Tracing().steps(Choice(("svm",), Path(), 2000.0))) == []


@pytest.mark.kvm
def test_traced_against_untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[int] = []

    class Counted(Recorder):
        def __exit__(self, *exception: object) -> None:
            super().__exit__(*exception)
            events.append(len(list(read_trace(self._path))))

    monkeypatch.setattr(tracing, "Recorder", Counted)
    rows = Tracing(trips=50).measure(CHOICE)
    assert [(row.what, row.against, row.goal) for row in rows] == [
        ("served in C", "", None),
        ("served in C, traced", "served in C", 1.15),
        ("served in C, traced and written", "served in C", None),
        ("served in Python", "", None),
        ("served in Python, traced", "served in Python", 1.15),
        ("served in Python, traced and written", "served in Python", None),
    ]
    assert all(len(row.runs) == 10 and min(row.runs) > 0 for row in rows)
    assert [row.ratio is None for row in rows] == [True, False, False] * 2
    # each of the four that are traced has all its events: those of the runs, of three before, and two doorbells of each
    assert events == [(10 + 3) * (50 + 2)] * 4
    assert [row.goal for row in Tracing(trips=5).measure(replace(CHOICE, emulated=True))] == [None, 1.15, None] * 2


@pytest.mark.kvm
@pytest.mark.parametrize(("handler", "level"), [("C", 0), ("Python", 1)])
def test_parts(handler: str, level: int) -> None:
    rows = Parts(trips=50).measure(CHOICE, "direct", handler, level)
    assert [row.what for row in rows] == [f"{part}, served in {handler}" for part in PARTS]
    assert all(len(row.runs) == 10 and row.unit == "us" for row in rows)
    assert min(run for row in rows for run in row.runs) > 0

"""Whether two benchmarks agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_document import DOCUMENT

from nestvmm.bench.agree import pairs
from nestvmm.bench.row import Row
from nestvmm.cli.main import main
from nestvmm.errors import UsageError

ROWS = (
    Row("port", "in C", runs=(100.0, 200.0, 300.0)),
    Row("port", "in Python", runs=(1000.0,)),
    Row("switch", "in Python", against="bare loop", runs=(50.0,)),
    Row("switch", "in Python", against="floor", runs=(50.0,)),
    Row("port", "not there", note="no engine"),
    Row("hypercall", "published", runs=(1.0,), source="a paper"),
)


def test_medians_are_compared_figure_by_figure() -> None:
    other = [replace(row, runs=tuple(run * 1.01 for run in row.runs)) for row in reversed(ROWS[:2])]
    found = pairs((*ROWS[:4],), (*other, *ROWS[2:4]))
    assert [(pair.name, round(pair.apart, 6)) for pair in found] == [
        ("port: in C", 1.0),
        ("port: in Python", 1.0),
        ("switch: in Python", 0.0),
        ("switch: in Python", 0.0),
    ]


@pytest.mark.parametrize(("first", "second", "apart"), [(100.0, 102.0, 2.0), (102.0, 100.0, 2.0), (0.0, 0.0, 0.0)])
def test_how_far_apart(first: float, second: float, apart: float) -> None:
    (pair,) = pairs([Row("port", runs=(first,))], [Row("port", runs=(second,))])
    assert round(pair.apart, 9) == apart


def test_nothing_is_infinitely_less_than_something() -> None:
    (pair,) = pairs([Row("port", runs=(0.0,))], [Row("port", runs=(1.0,))])
    assert pair.apart == float("inf")


@pytest.mark.parametrize("second", [ROWS[:1], (*ROWS[:2], Row("cpuid", "new", runs=(1.0,)))])
def test_a_figure_of_one_run_only_is_refused(second: tuple[Row, ...]) -> None:
    with pytest.raises(UsageError, match=r"^(port: in Python|cpuid: new): only one of the two runs has it"):
        pairs(ROWS[:2], second)


def test_what_was_not_measured_here_does_not_count() -> None:
    assert len(pairs(ROWS, ROWS[:4])) == 4


def run(folder: Path, factor: float, *options: str) -> int:
    for name, by in ("one", 1.0), ("two", factor):
        rows = tuple(replace(row, runs=tuple(run * by for run in row.runs)) for row in ROWS)
        (folder / f"{name}.json").write_text(replace(DOCUMENT, rows=rows).text())
    with pytest.raises(SystemExit) as ended:
        main(["agree", str(folder / "one.json"), str(folder / "two.json"), *options])
    status = ended.value.code
    assert isinstance(status, int)
    return status


def test_the_command_says_what_is_farthest_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, 1.015, "--within", "2") == 0
    assert capsys.readouterr().out == ("  1.50 %  port: in C: 200 and 203 cycles\n4 medians are at most 1.50 % apart\n")


def test_the_exit_status_is_the_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, 1.025, "--within", "2") == 1
    assert capsys.readouterr().out.count(" 2.50 %  ") == 4
    assert run(tmp_path, 1.025) == 0
    assert capsys.readouterr().out.count(" 2.50 %  ") == 1


@pytest.mark.parametrize("percent", ["nan", "-1"])
def test_a_bound_that_is_none(tmp_path: Path, percent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, 1.025, "--within", percent) == 2
    assert capsys.readouterr().err == f"nestvmm: --within {percent}: give a number from 0 up\n"


def test_all_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, 1.0, "--all") == 0
    assert capsys.readouterr().out.count("0.00 %  ") == 4


def test_an_empty_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    file.write_text(replace(DOCUMENT, rows=()).text())
    with pytest.raises(SystemExit):
        main(["agree", str(file), str(file)])
    assert capsys.readouterr().err == f"nestvmm: {file}: nothing was measured\n"

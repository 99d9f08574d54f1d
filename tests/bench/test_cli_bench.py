"""`nestvmm bench`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import nestvmm.bench.request
import nestvmm.cli.bench as command
from nestvmm.bench import Document, read_document
from nestvmm.bench.case import Choice, Step
from nestvmm.bench.row import Row, compare
from nestvmm.errors import HostError, UsageError

RUNS = (7.5, 7.5, 7.25, 7.75, 7.5, 7.5, 7.5, 7.5, 7.5, 9.5)
BARE = Row("some", "bare", us_per_unit=0.5, runs=RUNS)
ROWS = [
    BARE,
    compare(Row("some", "in C", us_per_unit=0.5, runs=tuple(1.02 * run for run in RUNS)), BARE, 1.1),
    compare(Row("some", "in Python", us_per_unit=0.5, runs=tuple(20000 * run for run in RUNS)), BARE, 1.6),
    Row("some", "there", note="not here", source="a book"),
]


MISSED = ("20000.000", "20000.000-20000.000", "bare", "<= 1.60", "missed")


class Some:
    name = "some"
    about = "something"
    calls = 0
    broken = False

    def steps(self, choice: Choice) -> Iterator[Step]:
        self.choice = choice
        yield Step("first", lambda: self.measure(ROWS[:3]))
        yield Step("second", lambda: self.measure(ROWS[3:]))

    def measure(self, rows: list[Row]) -> list[Row]:
        self.calls += 1
        if self.broken and self.calls == 2:
            raise HostError("it broke")
        return rows


@pytest.fixture
def some(monkeypatch: pytest.MonkeyPatch) -> Some:
    some = Some()
    monkeypatch.setattr(nestvmm.bench.request, "CASES", [some])
    monkeypatch.setitem(command._ABOUT, some.name, some.about)
    monkeypatch.setattr(nestvmm.bench.request, "_engines", lambda wanted: wanted or ("direct",))
    return some


def bench(*words: object) -> str:
    result = CliRunner().invoke(command.bench, [str(word) for word in words])
    if isinstance(result.exception, HostError | UsageError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table(some: Some) -> None:
    lines = [line.rstrip() for line in bench().splitlines()]
    *table, end = lines[lines.index("some: something [cycles]") + 1 :]
    assert [re.split("   +", line.strip()) for line in table[:1] + table[2:]] == [
        ["what", "minimum", "median", "95 %", "us", "ratio", "95 %", "to", "goal", "met", "runs", "outliers"],
        ["bare", "7.25", "7.50", "7.50-7.75", "3.75", "10", "3"],
        ["in C", "7.40", "7.65", "7.65-7.91", "3.83", "1.020", "1.020-1.020", "bare", "<= 1.10", "met", "10", "3"],
        ["in Python", "145,000", "150,000", "150,000-155,000", "75,000", *MISSED, "10", "3"],
        ["there"],
        ["there: not here: a book"],
    ]
    assert re.fullmatch(r"4 figures in \d+ s", end)


def test_what_is_asked_for_is_what_a_case_gets(some: Some, tmp_path: Path) -> None:
    bench("--engine", "svm", "--heights", "1-3,8", "--runs", 10, "--peer", "qemu", "--guests", tmp_path)
    choice = some.choice
    assert (choice.engines, choice.heights, choice.runs, choice.peer) == (("svm",), (1, 2, 3, 8), 10, True)
    assert (choice.guests, choice.icount, choice.emulated) == (tmp_path, False, False)


def test_json_beside_the_table(some: Some, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert "in Python" in bench("--json", file)
    assert read_document(file).rows == tuple(ROWS)


def test_json_alone(some: Some) -> None:
    document = Document.from_dict(json.loads(bench("--json", "-")))
    assert document.rows == tuple(ROWS)
    assert document.environment.machine == "this host"


def test_json_that_cannot_be_written(some: Some, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        bench("--json", tmp_path / "no" / "rows.json")


def test_a_step_that_fails_leaves_the_others(some: Some) -> None:
    some.broken = True
    result = CliRunner().invoke(command.bench, [])
    assert str(result.exception) == "not measured: some/second: it broke"
    assert "in Python" in result.stdout
    assert "failed: it broke" in result.stdout


def test_going_on(some: Some, tmp_path: Path) -> None:
    file = tmp_path / "journal"
    first = bench("--resume", file)
    assert some.calls == 2
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    # but for the clock's rate and the seconds
    assert bench("--resume", file).splitlines()[1:-1] == first.splitlines()[1:-1]
    assert some.calls == 3
    with pytest.raises(UsageError, match="another choice"):
        bench("--resume", file, "--runs", 11)


def test_nothing_of_the_progress_bar_is_in_a_pipe(some: Some) -> None:
    result = CliRunner().invoke(command.bench, [])
    assert result.stderr == ""
    assert "\x1b" not in result.stdout


def test_the_list() -> None:
    lines = bench("--list").splitlines()
    assert "cpuid       CPUID" in lines
    assert [line.split()[0] for line in lines] == list(command._ABOUT)


@pytest.mark.parametrize("heights", ["0", "17", "3-2", "x", "1,,2", "1-2-3", "-1"])
def test_heights_that_are_none(heights: str) -> None:
    result = CliRunner().invoke(command.bench, [f"--heights={heights}"])
    assert result.exit_code == 2
    assert "no list of heights from 1 to 16" in result.output


def test_a_result_that_cannot_be_written_is_not_measured_for(some: Some, tmp_path: Path) -> None:
    for place in tmp_path, tmp_path / "none" / "x":
        with pytest.raises(UsageError, match=rf"^--json {place}: "):
            bench("--json", place)
    assert some.calls == 0


def test_icount_is_the_svm_labs() -> None:
    with pytest.raises(UsageError, match="say --lab svm"):
        bench("--icount")
    with pytest.raises(UsageError, match="say --lab svm"):
        bench("--icount", "--lab", "vmx")


def test_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nestvmm.bench.request, "_engines", lambda wanted: ("direct",))
    with pytest.raises(UsageError, match="switch: nothing to measure with engine direct here"):
        bench("--case", "switch")

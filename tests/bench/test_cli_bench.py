"""`nestvmm bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import nestvmm.cli.bench as command
from nestvmm.bench import Row
from nestvmm.errors import UsageError

ROWS = [
    Row("bare", "us", 7.5, samples=9),
    Row("in C", "us", 7.75, "bare", 1.033, 1.01, 1.05, 1.1, 9),
    Row("in Python", "us", 15.0, "bare", 2.0, None, None, 1.6, 2),
    Row("QEMU", "ms", note="not installed"),
]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setattr(command, "measure_trips", lambda batches: ROWS[:3])
    monkeypatch.setattr(command, "measure_completion", list)
    monkeypatch.setattr(command, "measure_startup", lambda image, runs, qemu: ROWS[3:])
    return CliRunner()


def test_the_table(runner: CliRunner) -> None:
    result = runner.invoke(command.bench, [])
    assert result.exit_code == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert lines == [
        ["bare", "7.50 us", "", "", "", "", "", "9"],
        ["in C", "7.75 us", "bare", "1.033", "1.010-1.050", "<= 1.10", "yes", "9"],
        ["in Python", "15.00 us", "bare", "2.000", "", "<= 1.60", "no", "2"],
        ["QEMU", "not installed", "", "", "", "", "", ""],
    ]


def test_json_beside_the_table(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    result = runner.invoke(command.bench, ["--json", str(file)])
    assert result.exit_code == 0
    assert "in Python" in result.stdout
    assert json.loads(file.read_text()) == [row.as_dict() for row in ROWS]


def test_json_alone(runner: CliRunner) -> None:
    result = runner.invoke(command.bench, ["--json", "-"])
    assert json.loads(result.stdout) == [row.as_dict() for row in ROWS]


def test_json_that_cannot_be_written(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(command.bench, ["--json", str(tmp_path / "no" / "rows.json")])
    assert isinstance(result.exception, UsageError)
    assert "No such file or directory" in str(result.exception)

"""What depth costs, flat and as a cascade: the rows, and the command's table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from command import GUESTS, guest

import nestvmm.cli.bench as command
from nestvmm.bench import KINDS, Depth, measure_depth

ROWS = [Depth(1, "cpuid", 100, 100), Depth(2, "cpuid", 1000, 1001), Depth(2, "port", 1000, 2030)]


def test_a_ratio_says_how_many_times_as_dear_the_cascade_is() -> None:
    assert Depth(3, "port", 1000, 2030).as_dict() == {
        "level": 3, "kind": "port", "flat": 1000, "cascade": 2030, "ratio": 2.03,
    }  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []

    def measure(guests: object) -> list[Depth]:
        asked.append(guests)
        return ROWS

    monkeypatch.setattr(command, "measure_depth", measure)
    return asked


def test_the_command_prints_a_line_for_each_level(measured: list[Any]) -> None:
    result = CliRunner().invoke(command.bench, ["--depth", "--guests", "here"])
    assert (result.exit_code, [str(one) for one in measured]) == (0, ["here"])
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    assert cells == [
        ["1", "100", "100", "1.00", "", "", "", "", "", ""],
        ["2", "1,000", "1,001", "1.00", "", "", "", "1,000", "2,030", "2.03"],
    ]


def test_the_rows_as_json(measured: list[Any]) -> None:
    result = CliRunner().invoke(command.bench, ["--depth", "--json", "-"])
    assert [row["ratio"] for row in json.loads(result.output)] == [1.0, 1.001, 2.03]


@pytest.mark.svm_lab
def test_flat_costs_the_same_at_every_level_and_a_cascade_doubles() -> None:
    """The lab counts instructions: figures repeat."""
    guest("minivisor")
    rows = {(row.level, row.kind): row for row in measure_depth(GUESTS, (1, 2, 3, 5))}
    assert sorted(rows) == sorted(
        [(1, "cpuid"), (1, "port"), *((level, kind) for level in (2, 3, 5) for kind in KINDS)]
    )
    for kind in KINDS:
        flat = [rows[level, kind].flat for level in (2, 3, 5)]
        assert max(flat) < 1.05 * min(flat)
        assert rows[2, kind].ratio == pytest.approx(1, abs=0.02)
        assert rows[3, kind].ratio > 1.8
        assert rows[5, kind].ratio > 3.5 * rows[3, kind].ratio

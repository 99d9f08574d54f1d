"""What depth costs, flat and as a cascade: which steps there are, and the table. The figures: test_bench_lab."""

from __future__ import annotations

from pathlib import Path

from nestvmm.bench.case import Choice
from nestvmm.bench.depth import KINDS, Depth
from nestvmm.bench.row import Row, compare
from nestvmm.cli.bench_table import depth_lines


def test_only_engines_that_run_images_have_steps() -> None:
    steps = Depth().steps(Choice(("direct", "svm", "vmx"), Path(), 1000.0))
    assert [step.name for step in steps] == [f"{engine}, {kind}" for engine in ("svm", "vmx") for kind in KINDS]
    assert list(Depth().steps(Choice(("direct",), Path(), 1000.0))) == []


def row(kind: str, level: int, mode: str, *runs: float) -> Row:
    return Row("depth", f"{kind}, svm, L{level}, {mode}", engine="svm", level=level, mode=mode, runs=runs)


def test_the_table_has_a_line_for_each_level() -> None:
    flat = {level: row("cpuid", level, "flat", 1000.0, 1000.0, 1000.0) for level in (1, 2, 3)}
    rows = [
        *flat.values(),
        compare(row("cpuid", 2, "cascade", 1001.0, 1001.0, 1001.0), flat[2]),
        compare(row("cpuid", 3, "cascade", 2030.0, 2030.0, 2100.0), flat[3]),
        row("port", 3, "flat", 500.0),
    ]
    assert depth_lines(rows, "svm") == [
        ["L1", "1,000", "", "", "", "", ""],
        ["L2", "1,000", "1,001", "1.001", "", "", ""],
        ["L3", "1,000", "2,030", "2.030", "500", "", ""],
    ]

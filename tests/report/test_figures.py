"""What a report shows of its inputs, and which inputs it refuses."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from samples import ACCOUNT, ROWS, document, files, row

from nestvmm.errors import HostError, UsageError
from nestvmm.report import Figure, figures_of, read_inputs
from nestvmm.report.figure import Bars, Dots, Lines
from nestvmm.report.figures import bench_figures, number
from nestvmm.report.plots import plot
from nestvmm.report.scale import Linear, Log


def figures(folder: Path) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures_of(read_inputs(files(folder)))}


def test_cost_by_depth(tmp_path: Path) -> None:
    found = {name: figure for name, figure in figures(tmp_path).items() if name.startswith("depth")}
    lines = {
        name: {line.name: [(point.x, point.y) for point in line.points] for line in figure.chart.series}
        for name, figure in found.items()
        if isinstance(figure.chart, Lines)
    }
    assert lines == {
        "depth-cpuid-0": {
            "svm, flat": [(1, 1001), (2, 1002), (3, 1003), (4, 1004)],
            "svm, cascade": [(2, 400_000), (3, 8_000_000), (4, 160_000_000)],
        },
        "depth-hypercall-0": {
            "svm, flat": [(2, 902), (3, 903)],
            "KVM in KVM, another machine's cycles": [(1, 1575), (2, 37733)],
        },
        "depth-cpuid-above-KVM-0": {
            "QEMU, cascade": [(2, 900), (3, 27_000)],
            "svm, flat": [(2, 1000), (3, 1500)],
            "svm, cascade": [(2, 2500), (3, 125_000)],
        },
    }


def test_depth_in_words_and_numbers(tmp_path: Path) -> None:
    found = figures(tmp_path)
    cpuid, hypercall, above = (found[f"depth-{name}-0"] for name in ("cpuid", "hypercall", "cpuid-above-KVM"))
    # at level 1, L0's C code answers: the line's growth begins where an image does
    assert cpuid.text.endswith(
        "svm, flat: 1,002 at L2, 1,004 at L4, which is 1.00 times that; "
        "svm, cascade: 400,000 at L2, 160,000,000 at L4, which is 400 times that; "
        "at L4, svm, cascade is 159,363 times flat."
    )
    assert above.text.endswith("which is 50 times that; at L3, svm, cascade is 83 times flat.")
    assert isinstance(hypercall.chart, Lines)
    assert [line.dashed for line in hypercall.chart.series] == [False, True]
    assert hypercall.table.head == ("instructions", "L1", "L2", "L3")
    assert hypercall.table.rows == (
        ("svm, flat", "", "902", "903"),
        ("KVM in KVM, another machine's cycles", "1,575", "37,733", ""),
    )


def test_published_figures_alone_are_no_figure() -> None:
    published = [one for one in ROWS if one.system == "published"]
    assert bench_figures(document(*published), "0") == []


def test_parts_of_an_exit(tmp_path: Path) -> None:
    figure = figures(tmp_path)["parts-0"]
    assert isinstance(figure.chart, Bars)
    assert figure.chart.names == ("svm, C", "svm, Python")
    assert figure.chart.parts == (
        ("world switch", (8.0, 8.2)),
        ("decode", (0.01, 0.01)),
        ("route", (0.02, 0.02)),
        ("handler", (0.03, 2.5)),
        ("resume", (0.04, 0.04)),
    )
    assert figure.table.rows[1] == ("svm, Python", "8.2", "0.01", "0.02", "2.5", "0.04", "10.8")
    assert figure.text.endswith("The largest part of svm, C is the world switch: 8 of 8.1.")


def test_cost_of_each_kind_of_exit(tmp_path: Path) -> None:
    """By the guest's clock; what was not measured is left out."""
    figure = figures(tmp_path)["exits-0"]
    assert isinstance(figure.chart, Dots)
    assert figure.chart.names == ("port: svm, L2, C at L0", "port: svm, L2, Python at L1")
    assert [(point.y, point.low, point.high) for point in figure.chart.points] == [
        (105.5, 102, 109),
        (905.5, 902, 909),
    ]
    assert figure.chart.numbered() == {"C": 0, "Python": 1}
    assert figure.table.rows[0] == ("port: svm, L2, C at L0", "C", "100", "106", "102 to 109", "12")


def test_exits_by_reason_and_level(tmp_path: Path) -> None:
    figure = figures(tmp_path)["run-0"]
    assert isinstance(figure.chart, Dots)
    assert figure.chart.names == ("L2 <script>: io", "L0 UART: io")
    assert [point.y for point in figure.chart.points] == [10, 101]
    assert figure.table.rows == (
        ("L2", "<script>", "io", "10", "0", "2.00", "0.020"),
        ("L0", "UART", "io", "101", "101", "2.00", "0.202"),
    )
    assert figure.text.endswith("111 in 0.250 s, of which L2 9.01 %, L0 91 %.")


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_figures_that_no_axis_has_are_left_out(value: float) -> None:
    rows = [replace(one, runs=(value,)) for one in ROWS if one.runs]
    assert bench_figures(document(*rows), "0") == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.012345, "0.0123"), (8.0, "8"), (999.6, "1,000"), (1234.4, "1,234"), (1e7, "10,000,000")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither `nestvmm bench --json` nor `nestvmm run --json` wrote this"),
        ("[]", "neither"),
        ("{}", "neither"),
        ("[" * 100_000, "neither"),
        ("\0", "neither"),
        (json.dumps({**ACCOUNT, "seconds": math.nan}), "neither"),
        (json.dumps({**ACCOUNT, "rows": [{}]}), "neither"),
        (json.dumps({**ACCOUNT, "rows": 1}), "neither"),
        ('{"format": "other"}', 'its "format" is not "nestvmm-bench-1"'),
        ('{"format": "nestvmm-bench-1"}', "'command' is missing"),
    ],
)
def test_what_is_no_input(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_inputs([path])
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"^/none/x: No such file or directory$"):
        read_inputs([Path("/none/x")])


@given(st.lists(st.floats(1e-6, 1e15), min_size=1))
@example([999999999999998.0])
@example([1.0000000000000002])
def test_a_logarithmic_axis_has_all_values_between_its_ends(values: list[float]) -> None:
    scale = Log.over(values, 10, 110)
    assert all(10 <= scale.at(value) <= 110.0001 for value in values)
    assert 2 <= len(scale.marks()) <= 11
    assert all(9.999 <= scale.at(mark) <= 110.001 for mark in scale.marks())


@pytest.mark.parametrize("value", [5e-324, 1.7e308])
def test_a_logarithmic_axis_ends_where_floats_do(value: float) -> None:
    scale = Log.over([value, 1.0], 10, 110)
    assert all(math.isfinite(number) and number > 0 for number in (scale.first, scale.last, *scale.marks()))
    assert math.isfinite(scale.at(value))


@pytest.mark.parametrize("low", [0.0, -1.0, 0.1])
def test_an_interval_that_begins_below_a_logarithmic_axis_begins_with_it(low: float) -> None:
    assert Log.over([1.0, 50.0], 10, 110).at(low) == 10


@given(st.floats(1e-9, 1e15))
def test_a_linear_axis_has_a_few_round_marks(last: float) -> None:
    scale = Linear(last, 0, 100)
    assert 5 <= len(scale.marks()) <= 12
    assert scale.marks()[0] == 0
    assert scale.at(scale.marks()[-1]) <= 100.0001


def test_plots(tmp_path: Path) -> None:
    written = plot(figures(tmp_path).values(), tmp_path / "a" / "plots")
    names = [*("depth-cpuid-0", "depth-hypercall-0", "depth-cpuid-above-KVM-0"), "parts-0", "exits-0", "run-0"]
    assert [path.name for path in written] == [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    for path in written:
        head = path.read_bytes()[:8]
        assert head == b"\x89PNG\r\n\x1a\n" if path.suffix == ".png" else head.startswith(b"<?xml")


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    rows = [{**ACCOUNT["rows"][0], "who": r"$\frac$"}]
    (tmp_path / "run.json").write_text(json.dumps({**ACCOUNT, "rows": rows}))
    written = plot(figures_of(read_inputs([tmp_path / "run.json"])), tmp_path)
    assert [path.name for path in written] == ["run-0.png", "run-0.svg"]


def test_plots_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(HostError, match=r"^--plots needs matplotlib: pip install matplotlib$"):
        plot([], tmp_path)


def test_plots_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^--plots .*/file/x: Not a directory$"):
        plot([], tmp_path / "file" / "x")


def test_rows_of_one_level_are_no_line() -> None:
    one: Any = row("depth", "cpuid, svm, L2, flat", 5, engine="svm", mode="flat", level=2)
    assert bench_figures(document(one), "0") == []

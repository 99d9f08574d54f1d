"""The benchmark in the labs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from command import GUESTS, guest

from nestvmm.bench.journal import Journal
from nestvmm.bench.remote import conduct_in
from nestvmm.bench.request import Request
from nestvmm.bench.row import Row
from nestvmm.bench.tracing import PARTS
from nestvmm.errors import HostError
from nestvmm.lab import Lab, SvmLab

RUNS = 10
# Two runs agree to within 2 %.
NEAR = 0.02


@pytest.fixture(scope="module")
def counting() -> Iterator[Lab]:
    """A machine whose clock counts instructions: what is measured there does not depend on the load here."""
    guest("rtt")
    with SvmLab(icount=True) as lab:
        yield lab


def measured(lab: Lab, cases: Sequence[str], **options: object) -> list[Row]:
    request = Request(str(GUESTS), tuple(cases), runs=RUNS, machine="SVM lab", icount=True, **options)  # type: ignore[arg-type]
    seen: list[str | None] = []
    with Journal(None, {}) as journal:
        environment, versions, failed = conduct_in(lab, request, journal, lambda total, name: seen.append(name))
        assert (failed, environment.icount, environment.machine) == ([], True, "SVM lab")
        assert environment.kvm["kvm_amd"]["nested"] == "1"
        assert versions["nestvmm"]
        assert seen == [*journal.done, None]
        return [row for rows in journal.done.values() for row in rows]


@pytest.mark.svm_lab
def test_two_runs_agree(counting: Lab) -> None:
    cases = ("cpuid", "port")
    first, second = (measured(counting, cases, engines=("svm",)) for _ in range(2))
    assert [row.what for row in first] == [row.what for row in second]
    assert {row.handler for row in first} == {"C", "Python", "image"}
    for one, other in zip(first, second, strict=True):
        assert one.median is not None
        assert other.median == pytest.approx(one.median, rel=NEAR), one.what


@pytest.mark.svm_lab
def test_the_goals_of_the_switcher(counting: Lab) -> None:
    rows = measured(counting, ["switch"], heights=(2, 16))
    assert [(row.what, row.met) for row in rows if row.goal is not None] == [
        ("served in C", True),
        ("served in Python", True),
        ("served in Python at L15, guest at L16", True),
    ]


@pytest.mark.svm_lab
def test_flat_costs_the_same_at_any_depth_and_a_cascade_doubles(counting: Lab) -> None:
    measured_rows = measured(counting, ["depth"], heights=(1, 2, 3, 5, 8))
    rows = {(row.what.partition(",")[0], row.level, row.mode): row for row in measured_rows}
    assert len(rows) == len(measured_rows)
    kinds = ("cpuid", "hypercall", "port")
    modes = ("flat", "cascade")
    assert set(rows) == {
        *((kind, 1, "flat") for kind in ("cpuid", "port")),
        *((kind, level, mode) for kind in kinds for level in (2, 3, 5, 8) for mode in modes),
    }
    for kind in kinds:
        assert [rows[kind, level, "flat"].met for level in (3, 5, 8)] == [True, True, True]
        ratios = [rows[kind, level, "cascade"].ratio or 0 for level in (2, 3, 5, 8)]
        # nothing nests at level 2: the designation makes no difference
        assert ratios[0] == pytest.approx(1, abs=NEAR)
        assert ratios[1] > 1.8
        assert ratios[2] > 3.5 * ratios[1]
        assert ratios[3] > 7 * ratios[2]


@pytest.mark.svm_lab
def test_what_tracing_costs_and_the_parts_of_an_exit(counting: Lab) -> None:
    rows = {row.what: row for row in measured(counting, ["tracing", "parts"], engines=("direct",))}
    for served in ("served in C", "served in Python"):
        traced, written = rows[f"{served}, traced"], rows[f"{served}, traced and written"]
        assert traced.met
        assert 1 < (traced.ratio or 0) < (written.ratio or 0)
        switch, decode, route, handler, _ = (rows[f"{part}, {served}"].median or 0 for part in PARTS)
        assert switch > decode + route > 0
        assert (handler > 10 * route) == (served == "served in Python")


@pytest.mark.svm_lab
def test_what_the_lab_cannot_is_one_error(counting: Lab) -> None:
    with pytest.raises(HostError, match="in the lab: the vmx engine needs "):
        measured(counting, ["cpuid"], engines=("vmx",))

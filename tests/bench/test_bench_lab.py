"""The benchmark in the labs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from command import GUESTS, guest

from nestvmm.bench.journal import Journal
from nestvmm.bench.remote import conduct_in
from nestvmm.bench.request import Request
from nestvmm.bench.row import Row
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
    cases = ("cpuid", "hypercall", "port")
    first, second = (measured(counting, cases, engines=("svm",)) for _ in range(2))
    assert [row.what for row in first] == [row.what for row in second]
    assert {row.handler for row in first} == {"C", "Python", "image"}
    for one, other in zip(first, second, strict=True):
        assert one.median is not None
        assert other.median == pytest.approx(one.median, rel=NEAR), one.what


@pytest.mark.svm_lab
def test_the_goals_of_the_switcher(counting: Lab) -> None:
    rows = measured(counting, ["switch"])
    assert [(row.what, row.met) for row in rows if row.goal is not None] == [
        ("served in C", True),
        ("served in Python", True),
        *((f"served in Python at L{height - 1}, guest at L{height}", True) for height in (4, 8, 16)),
    ]


@pytest.mark.svm_lab
def test_an_exit_costs_the_same_at_any_depth(counting: Lab) -> None:
    rows = measured(counting, ["depth"], heights=(1, 2, 8))
    assert [row.what for row in rows] == [
        *(f"cpuid, svm, L{height}, flat" for height in (1, 2, 8)),
        *(f"hypercall, svm, L{height}, flat" for height in (2, 8)),
        *(f"port, svm, L{height}, flat" for height in (1, 2, 8)),
    ]
    assert [row.met for row in rows if row.level == 8] == [True, True, True]


@pytest.mark.svm_lab
def test_what_the_lab_cannot_is_one_error(counting: Lab) -> None:
    with pytest.raises(HostError, match="in the lab: the vmx engine needs "):
        measured(counting, ["cpuid"], engines=("vmx",))

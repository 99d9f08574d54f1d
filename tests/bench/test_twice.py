"""Linux's KVM at level 1 and again at level 2: what the case makes of it; and the tower itself, by `make prove`."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from command import GUESTS, guest

from nestvmm.bench.case import RUNS_MIN, Choice
from nestvmm.bench.catalog import CASES, LONG
from nestvmm.bench.journal import Journal
from nestvmm.bench.remote import conduct_in
from nestvmm.bench.request import Request
from nestvmm.bench.row import CASCADE, FLAT
from nestvmm.bench.twice import Twice, split_levels
from nestvmm.errors import HostError
from nestvmm.lab import SvmLab

SAID = "rtt cpuid 2\nthis is level 2's kernel:\nrtt cpuid 3\nall is done\n"


def test_what_each_level_says() -> None:
    assert split_levels(SAID) == {2: "rtt cpuid 2\n", 3: "\nrtt cpuid 3\nall is done\n"}


@pytest.mark.parametrize(("missing", "level"), [("this is level 2's kernel:", 1), ("all is done", 2)])
def test_a_tower_that_did_not_get_so_far_is_an_error(missing: str, level: int) -> None:
    with pytest.raises(HostError, match=f"^Linux at level {level} did not run to its end"):
        split_levels(SAID.replace(missing, ""))


@pytest.mark.parametrize(
    ("engines", "icount", "emulated", "steps"),
    [(("svm",), True, True, 1), (("svm",), False, False, 1), (("svm",), False, True, 0), (("direct",), True, True, 0)],
)
def test_level_1_needs_a_clock_that_waits_for_it(
    engines: tuple[str, ...], icount: bool, emulated: bool, steps: int
) -> None:
    choice = Choice(engines, Path(), 1000.0, icount=icount, emulated=emulated)
    assert len(list(Twice().steps(choice))) == steps


def test_it_is_measured_only_when_asked_for() -> None:
    assert Twice.name in LONG
    assert {case.name for case in CASES} > LONG


@pytest.mark.prove
@pytest.mark.svm_lab
def test_linux_kvm_runs_twice_and_flat_is_ten_times_cheaper() -> None:
    guest("vm_linux")
    request = Request(str(GUESTS), (Twice.name,), runs=RUNS_MIN, machine="SVM lab", icount=True)
    with SvmLab(icount=True) as lab, Journal(None, {}) as journal:
        _, _, failed = conduct_in(lab, request, journal, lambda total, name: None)
        rows = {(row.level, row.case, row.mode): row for part in journal.done.values() for row in part}
    assert failed == []
    assert set(rows) == set(product((2, 3), ("cpuid", "hypercall", "port"), (FLAT, CASCADE)))
    for (level, case, mode), row in rows.items():
        assert row.runs, (level, case, mode)
        if mode == FLAT and level == 2:
            # nothing nests there: the designation makes no difference
            assert row.ratio == pytest.approx(1, abs=0.1), case
        if mode == FLAT and level == 3:
            assert row.met, (case, row.ratio)

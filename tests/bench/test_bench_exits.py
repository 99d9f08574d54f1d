"""Kinds of exits, by engine, height and handler."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import GUESTS, guest

from nestvmm.bench.case import Choice
from nestvmm.bench.catalog import CASES
from nestvmm.bench.exits import EXIT_CASES, ExitCase, l0_hypercalls
from nestvmm.bench.rtt import guest_figures, image, listed_figures, on_levels
from nestvmm.errors import HostError, UsageError
from nestvmm.nesting import LevelSpec

RUNS = 10
KINDS = {case.name: case for case in EXIT_CASES}


def choice(*engines: str, heights: tuple[int, ...] = ()) -> Choice:
    return Choice(engines, GUESTS, 2000.0, heights=heights, runs=RUNS, emulated=True)


def names(case: ExitCase, choice: Choice) -> list[str]:
    return [step.name for step in case.steps(choice)]


def said(*medians: int) -> str:
    return "".join(f"rtt cpuid count 20 min 1 median {one} cycles\r\n" for one in medians)


def test_the_guests_figures_begin_behind_the_warm_up() -> None:
    assert guest_figures(said(999, 998, 5, 6, 7), 3) == (5.0, 6.0, 7.0)


@pytest.mark.parametrize("text", [said(1, 2, 3), said(1, 2, 3, 4, 5), "rtt: name a kind", ""])
def test_a_guest_that_says_something_else(text: str) -> None:
    with pytest.raises(HostError, match="`make guests` builds it anew"):
        guest_figures(text, 2)


def test_each_exit_of_a_kind() -> None:
    text = "rtt cpuid cycles 9 8 7 6 5\r\r\nrtt port-in cycles 1 2 3\n"
    assert listed_figures(text, 3, "cpuid") == (7.0, 6.0, 5.0)
    assert listed_figures(text, 1, "port-in") == (3.0,)
    # those behind them are left out
    assert listed_figures(text * 2, 6, "cpuid") == (7.0, 6.0, 5.0, 9.0, 8.0, 7.0)
    for wrong in (text.replace("9", "x"), text.replace(" 5", ""), ""):
        with pytest.raises(HostError, match="not 5 runs; `make guests` builds it anew"):
            listed_figures(wrong, 3, "cpuid")


def test_a_guest_that_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"rtt.elf: not there; `make guests`"):
        image(tmp_path, "rtt")


def test_every_case_has_a_name_of_its_own_and_something_to_say() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.about for case in CASES)


def test_who_can_serve_what() -> None:
    both = choice("direct", "svm", "vmx")
    assert names(KINDS["cpuid"], both) == [
        "direct, guest at L2, KVM at L0",
        "svm, guest at L2, C at L0",
        "svm, guest at L2, Python at L1",
        "svm, guest at L2, image at L1",
        "vmx, guest at L2, C at L0",
        "vmx, guest at L2, Python at L1",
        "vmx, guest at L2, image at L1",
    ]
    assert names(KINDS["port"], choice("direct")) == [
        "direct, guest at L2, C at L0",
        "direct, guest at L2, Python at L1",
    ]
    # nobody is below a guest at level 1 but L0
    assert names(KINDS["port"], choice("direct", heights=(1, 4))) == [
        "direct, guest at L1, C at L0",
        "direct, guest at L4, C at L0",
        "direct, guest at L4, Python at L3",
    ]


def test_hypercalls_of_the_host_are_left_alone_where_they_loop_for_ever() -> None:
    expected = ["direct, guest at L2, KVM at L0"] if l0_hypercalls() else []
    assert names(KINDS["hypercall"], choice("direct")) == expected


@pytest.mark.kvm
@pytest.mark.parametrize("kind", ["overhead", "cpuid", "port", "msr-read", "msr-write", "mmio", "page-fault", "timer"])
def test_every_kind_is_measured_by_the_guest_and_by_l0(kind: str) -> None:
    guest("rtt")
    for step in KINDS[kind].steps(choice("direct")):
        by_guest, by_l0 = step.measure()
        assert (by_guest.clock, by_l0.clock) == ("guest", "L0")
        assert {(row.case, row.engine, row.level, row.mode) for row in (by_guest, by_l0)} == {
            (kind, "direct", 2, "flat")
        }
        assert [len(row.runs) for row in (by_guest, by_l0)] == [RUNS, RUNS]
        # L0's time has the loop in it
        assert by_guest.minimum is not None
        assert by_l0.minimum is not None
        assert 0 < by_guest.minimum < by_l0.minimum


@pytest.mark.kvm
def test_the_level_below_the_guest_answers() -> None:
    guest("rtt")
    levels = [LevelSpec("nestvmm.bench.answers:Bells"), LevelSpec("nestvmm.bench.answers:Answering", {"kind": "port"})]
    levels[1] = LevelSpec(levels[1].hypervisor, {"kind": "port", "bells": False})
    figures = on_levels(GUESTS, "port-in", runs=RUNS, count=3, levels=levels)
    assert (len(figures.guest), len(figures.l0)) == (RUNS, RUNS)


@pytest.mark.kvm
def test_a_guest_that_fails_is_an_error() -> None:
    guest("rtt")
    with pytest.raises(HostError, match=r"status 2: .*count is 0"):
        on_levels(GUESTS, "port-in", runs=1, count=0)


@pytest.mark.kvm
def test_what_nothing_answers() -> None:
    guest("rtt")
    levels = [LevelSpec("nestvmm.bench.answers:Answering", {"kind": "tea"})]
    with pytest.raises(UsageError, match="nothing answers tea"):
        on_levels(GUESTS, "port-in", runs=1, count=1, levels=levels)

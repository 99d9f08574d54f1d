"""Linux's KVM at level 1 and again at level 2: what the case makes of it; and the tower itself, by `make prove`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import GUESTS, guest
from lab_cases import run_cases

from nestvmm.bench import twice
from nestvmm.bench.case import RUNS_MIN as RUNS
from nestvmm.bench.case import WARM_UP, Choice
from nestvmm.bench.catalog import CASES, LONG
from nestvmm.bench.goals import TWICE, verdicts
from nestvmm.bench.journal import Journal
from nestvmm.bench.remote import conduct_in
from nestvmm.bench.request import Request
from nestvmm.bench.row import CASCADE, FLAT, Row
from nestvmm.bench.twice import KINDS, QEMU, Twice, split_levels
from nestvmm.cli.bench_table import twice_lines
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


def said(cost: Callable[[int, str], int]) -> Mapping[int, str]:
    """What guests at levels 2 and 3 print."""
    return {
        level: "".join(
            f"rtt {word} cycles{f' {cost(level, word)}' * (WARM_UP + RUNS)}\r\n" for word, _ in KINDS.values()
        )
        for level in (2, 3)
    }


COSTS: Mapping[str, Callable[[int, str], int]] = {
    QEMU: lambda level, _: 10**level,
    FLAT: lambda level, _: 1000 * level,
    CASCADE: lambda level, word: 2000 if level == 2 else 29000 if word == "port-in" else 40000,
}


def measured(monkeypatch: pytest.MonkeyPatch, peer: bool) -> list[Row]:
    """With towers that say at once what they would."""

    def run(command: Sequence[str], timeout: float) -> str:
        system = CASCADE if "svm-instruction=L1" in command else FLAT if "--designate" in command else QEMU
        both = said(COSTS[system])
        return f"{both[2]}this is level 2's kernel:\n{both[3]}all is done\n"

    monkeypatch.setattr(twice, "_run", run)
    monkeypatch.setattr(twice, "_initrd", lambda guests, words: b"")
    monkeypatch.setattr(twice, "qemu_command", lambda *options: ["qemu", *options])
    monkeypatch.setattr(twice, "find_kernel", lambda: SimpleNamespace(image=Path("vmlinuz")))
    (step,) = Twice().steps(Choice(("svm",), Path(), 1000.0, runs=RUNS, peer=peer, icount=True, emulated=True))
    return step.measure()


def test_each_level_flat_and_as_a_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(monkeypatch, peer=False)
    assert [(row.what, row.against) for row in rows] == [
        pair
        for kind in KINDS
        for level in (2, 3)
        for pair in (
            (f"{kind}, L{level}, cascade", ""),
            (f"{kind}, L{level}, flat", f"{kind}, L{level}, cascade"),
        )
    ]
    assert {row.case for row in rows} == {Twice.name}
    assert {(row.handler, row.handler_level) for row in rows if row.what.startswith("port, L3")} == {("launcher", 2)}
    # the goal is level 3's; the port's figures are beyond it
    assert {row.what: row.met for row in rows if row.goal is not None} == {
        "cpuid, L3, flat": True,
        "hypercall, L3, flat": True,
        "port, L3, flat": False,
    }
    (verdict,) = (one for one in verdicts(rows) if one.worst is not None)
    assert (verdict.goal, verdict.met) == (TWICE, False)


def test_the_peer_stands_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured(monkeypatch, peer=True)
    assert [(row.what, row.against) for row in rows[4:8]] == [
        ("cpuid, L3, QEMU", ""),
        ("cpuid, L3, cascade", "cpuid, L3, QEMU"),
        ("cpuid, L3, flat", "cpuid, L3, QEMU"),
        ("cpuid, L3, flat", "cpuid, L3, cascade"),
    ]
    assert {(row.system, row.engine, row.mode) for row in rows} == {
        ("QEMU", "kvm", "cascade"),
        ("nestvmm", "svm", "flat"),
        ("nestvmm", "svm", "cascade"),
    }
    assert {row.note for row in rows} == {""}
    assert twice_lines(rows)[:2] == [
        ["cpuid", "L2", "2,000", "2,000", "100", "1.000", "20.000", "20.000"],
        ["cpuid", "L3", "3,000", "40,000", "1,000", "0.075", "3.000", "40.000"],
    ]
    assert len(twice_lines(rows)) == 6


def test_a_tower_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU's is started anew; nothing else is."""
    monkeypatch.setattr(twice, "_TIMEOUT_QEMU", 1)
    count = tmp_path / "count"
    count.touch()
    end = 'echo "this is level 2\'s kernel:"; echo all is done'
    script = f"echo >>{count}; test $(wc -l <{count}) -gt %d || exec sleep 60; {end}"
    assert twice._run_qemu(["sh", "-c", script % 1]) == ({2: "", 3: "\nall is done\n"}, 2)
    count.write_text("")
    with pytest.raises(HostError, match=r"^Linux's KVM twice did not end within 1 s under sh$"):
        twice._run_qemu(["sh", "-c", script % 9])
    assert len(count.read_text()) == 3


@pytest.mark.prove
@pytest.mark.svm_lab
def test_linux_kvm_runs_twice_and_flat_does_not_grow() -> None:
    """Flat, an exit of level 3 costs what one of level 2 does; as KVM nests it costs several times that.

    The goal, which the table names as missed, is a tenth of the cascade: the next test has what stands against it.
    """
    guest("vm_linux")
    request = Request(str(GUESTS), (Twice.name,), machine="SVM lab", icount=True, peer=True)
    with SvmLab(icount=True) as lab, Journal(None, {}) as journal:
        _, _, failed = conduct_in(lab, request, journal, lambda total, name: None)
        rows = [row for part in journal.done.values() for row in part]
    assert failed == []
    assert {len(row.runs) for row in rows} == {60}
    systems = {QEMU: CASCADE, FLAT: FLAT, CASCADE: CASCADE}
    assert {(row.what, row.mode) for row in rows} == {
        (f"{kind}, L{level}, {system}", mode) for kind in KINDS for level in (2, 3) for system, mode in systems.items()
    }
    cost = {row.what: row.median or 0 for row in rows}
    for kind in KINDS:
        by_level = {system: (cost[f"{kind}, L2, {system}"], cost[f"{kind}, L3, {system}"]) for system in systems}
        # nothing nests at level 2: the designation makes no difference
        assert by_level[FLAT][0] == pytest.approx(by_level[CASCADE][0], rel=0.1), kind
        assert by_level[FLAT][1] < 1.05 * by_level[FLAT][0], kind
        assert 3 * by_level[FLAT][1] < by_level[CASCADE][1], kind
        assert 2 * by_level[FLAT][1] < by_level[QEMU][1], kind


@pytest.mark.prove
@pytest.mark.svm_lab
def test_a_cascade_is_four_exits_to_level_1_and_flat_none() -> None:
    """What flat saves. Each of the four costs what an exit of level 2 does, and so does flat's one to level 2.

    So flat, to a cascade, is a quarter however fast L0 is. A timer's tick at a level adds some of either.
    """
    guest("vm_linux")
    with SvmLab(icount=True) as lab:
        found = run_cases(lab, "bench/twice_exits.py", str(GUESTS))
    assert found[FLAT] < 1
    assert 3.5 < found[CASCADE] < 5

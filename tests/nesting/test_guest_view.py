"""A hypervisor's view of the level above it: registers, accesses in parts, and the effects of what it handles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_engine import Answer, Exit, loads, reads, stores
from scripted import Run, Scripted, scripted

from nestvmm.errors import HostError, HypervisorError
from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result
from nestvmm.kvm import Sregs
from nestvmm.nesting import LevelSpec, RunResult
from nestvmm.nesting.memory import Region
from nestvmm.x86.scope import Scope

IO, MMIO = ExitReason.IO, ExitReason.MMIO


def test_only_changed_registers_are_written_and_after_the_events_own_answer(make: Callable[..., Run]) -> None:
    run = make(scripted())

    def change(hypervisor: Scripted, event: Event) -> Result:
        guest = hypervisor.guest
        regs = guest.regs
        regs.rbx, regs.rcx = 1, 2
        guest.set_regs(regs)
        guest.skip(3)
        assert (guest.regs.rbx, guest.regs.rip) == (1, regs.rip + 3)
        sregs = guest.sregs
        sregs.cr3 = 0x5000
        guest.set_sregs(sregs)
        sregs.cr3 = 0x6000
        assert guest.sregs.cr3 == 0x5000, "a copy was taken, and a copy is given"
        return Result.read(9)

    run.hypervisor(1).behave = change
    rip = run.engine.regs().rip
    assert run.go(reads(0x5000), reads(0x61F0)) == RunResult(0)
    assert run.engine.log == [("settle",), ("regs", {"rbx": 1, "rcx": 2, "rip": rip + 3}), ("sregs", 0x5000)]
    assert run.engine.answers == [Answer(IO, 9), Answer(IO, 0xFF)]


def test_a_handler_that_only_looks_writes_nothing(make: Callable[..., Run]) -> None:
    run = make(scripted())
    seen = []

    def look(hypervisor: Scripted, event: Event) -> Result:
        hypervisor.guest.set_regs(hypervisor.guest.regs)
        seen.append((hypervisor.guest.regs.rax, isinstance(hypervisor.guest.sregs, Sregs)))
        return HANDLED

    run.hypervisor(1).behave = look

    def change_behind_its_back() -> None:
        regs = run.engine.regs()
        regs.rax += 5
        run.engine.set_regs(regs)

    second = reads(0x5000)
    second.before = change_behind_its_back
    assert run.go(reads(0x5000), second) == RunResult(0)
    assert seen == [(0, True), (5, True)], "each event reads the registers anew"
    assert run.engine.log == [("regs", {"rax": 5})]


def test_registers_changed_before_the_first_instruction_are_the_first_events(make: Callable[..., Run]) -> None:
    run = make(LevelSpec("scripted:Starting"), scripted())
    assert run.engine.regs().rbx == 0x77
    run.hypervisor(2).behave = lambda hypervisor, event: Result.stopped(hypervisor.guest.regs.rcx & 0xFF)

    def change_behind_its_back() -> None:
        regs = run.engine.regs()
        regs.rcx = 0x1C
        run.engine.set_regs(regs)

    first = reads(0x5000)
    first.before = change_behind_its_back
    assert run.go(first).status == 0x1C


@pytest.mark.parametrize("length", [0, 16, -1])
def test_no_instruction_has_such_a_length(make: Callable[..., Run], length: int) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda hypervisor, event: hypervisor.guest.skip(length)
    with pytest.raises(HypervisorError, match=f"an instruction has 1 to 15 bytes, not {length}"):
        run.go(reads(0x5000))


def test_an_access_in_parts_is_two_events_and_registers_change_after_the_last(make: Callable[..., Run]) -> None:
    run = make(scripted("mmio", 0xD0000000, 0xD0001FFF))

    def change(hypervisor: Scripted, event: Event) -> Result:
        regs = hypervisor.guest.regs
        regs.rbx += 1
        hypervisor.guest.set_regs(regs)
        return Result.read(0x11 * len(hypervisor.seen))

    run.hypervisor(1).behave = change
    second = loads(0xD0001000, 4)
    second.part = True
    assert run.go(loads(0xD0000FFC, 4), second) == RunResult(0)
    assert run.engine.answers == [Answer(MMIO, 0x11), Answer(MMIO, 0x22)]
    assert run.engine.log == [("settle",), ("settle",), ("regs", {"rbx": 2})]


@pytest.mark.parametrize(("port", "value"), [(0x3FF, 0), (0x61F0, 0xFF)])
def test_a_last_part_that_c_serves_still_brings_the_changed_registers(
    make: Callable[..., Run], port: int, value: int
) -> None:
    run = make(scripted())

    def change(hypervisor: Scripted, event: Event) -> Result:
        regs = hypervisor.guest.regs
        regs.rbx = 8
        hypervisor.guest.set_regs(regs)
        return HANDLED

    run.hypervisor(1).behave = change
    second = reads(port)
    second.part = True
    assert run.go(reads(0x5000), second, reads(0x61F1)) == RunResult(0)
    assert run.engine.answers == [Answer(IO), Answer(IO, value), Answer(IO, 0xFF)]
    assert run.engine.log == [("settle",), ("settle",), ("regs", {"rbx": 8})]


def test_a_fault_drops_the_parts_that_are_left(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, event: Result.faulted(6)
    run.engine.exits.append(reads(0x5000))

    # the fake hands a part over when it is decoded: let it vanish as KVM's does when it is completed unseen
    def settle() -> None:
        run.engine.log.append(("settle",))
        run.engine.vcpu.exited = len(run.engine.log) == 1

    run.engine.settle = settle  # type: ignore[method-assign]
    assert run.go().status == 0
    assert run.engine.log == [("settle",), ("settle",), ("regs", {}), ("exception", 6, None)]


def test_listeners_above_the_handler_hear_in_their_own_coordinates(make: Callable[..., Run]) -> None:
    offset = (Region(0, 0x1FF000, 0), Region(0xE0000000, 0x1000, 0xD0000000))
    listening = LevelSpec("scripted:Listening", {}, offset)
    plain = LevelSpec("scripted:Listening")
    run = make(plain, scripted("mmio", 0xD0000000, 0xD0000FFF), listening, plain)
    run.hypervisor(2).behave = lambda _, event: Result.read(3)
    assert run.go(loads(0xE0000010)) == RunResult(0)
    assert [event.qualifier for event in run.hypervisor(2).seen] == [0xD0000010]
    assert run.hypervisor(3).heard == [(4, 0xE0000010, 3)]
    assert run.hypervisor(4).heard == [(5, 0xE0000010, 3)]
    assert run.hypervisor(1).heard == []


def test_effects_of_aliased_addresses_are_one_levels_newest(make: Callable[..., Run]) -> None:
    twice = (
        Region(0, 0x1FF000, 0),
        Region(0xE0000000, 0x1000, 0xD0000000),
        Region(0xE0001000, 0x1000, 0xD0000000),
    )
    run = make(scripted("mmio", 0xD0000000, 0xD0000FFF), LevelSpec("scripted:Listening", {}, twice))
    assert run.go(stores(0xE0000008, 1), stores(0xE0001008, 2)) == RunResult(0)
    assert run.hypervisor(1).guest.last(MMIO, 0xD0000008, write=True) == 2
    assert run.hypervisor(2).guest.last(MMIO, 0xE0000008, write=True) == 1
    assert run.hypervisor(2).guest.last(MMIO, 0xE0001008, write=True) == 2
    assert run.hypervisor(1).guest.last(MMIO, 0xDFFFFFFF, write=True) is None


def test_a_handler_injects_an_exception_after_everything_else(make: Callable[..., Run]) -> None:
    run = make(scripted())

    def act(hypervisor: Scripted, event: Event) -> Result:
        hypervisor.guest.inject(14, 2)
        hypervisor.guest.inject(13, 0x50)
        sregs = hypervisor.guest.sregs
        sregs.cr3 = 0x5000
        hypervisor.guest.set_sregs(sregs)
        return HANDLED

    run.hypervisor(1).behave = act
    assert run.go(reads(0x5000), reads(0x61F0)) == RunResult(0)
    assert run.engine.log == [("settle",), ("sregs", 0x5000), ("exception", 13, 0x50)]


def test_windows_and_msrs_are_the_engines(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.engine.msrs[0x10] = 5
    found: list[object] = []

    def act(hypervisor: Scripted, event: Event) -> Result:
        guest = hypervisor.guest
        guest.request_interrupt_window()
        guest.request_nmi_window()
        found.extend([guest.read_msr(0x10), guest.write_msr(0x10, 6), guest.read_msr(0x11), guest.write_msr(0x11, 1)])
        found.extend([guest.write_msr(0xC0000080, 0x501), guest.read_msr(0xC0000080)])
        return HANDLED

    run.hypervisor(1).behave = act
    assert run.go(reads(0x5000)) == RunResult(0)
    assert found == [5, True, None, False, True, 0x501]
    assert (run.engine.msrs[0x10], run.engine.sregs().efer) == (6, 0x501)
    assert run.engine.log[:2] == [("window", False), ("window", True)]


def test_what_an_intercept_stopped_can_be_retried_or_fault(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.engine.stopped = True
    answers = iter([Result.retry(), Result.faulted(6), HANDLED])
    retries: list[int] = []
    run.engine.note = lambda event: retries.append(int(event.retry))
    run.hypervisor(1).behave = lambda _, __: next(answers)
    assert run.go(*[Exit(ExitReason.IO, 0x5000)] * 3) == RunResult(0)
    assert retries[:3] == [1, 1, 0]
    assert run.engine.log == [("settle",), ("exception", 6, None)]


def test_what_has_happened_cannot_be_retried(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda _, __: Result.retry()
    with pytest.raises(HypervisorError, match=r"L1 Scripted wants <io read .* again, which has happened already"):
        run.go(reads(0x5000))


def test_claims_change_when_the_handler_is_done(make: Callable[..., Run]) -> None:
    run = make(scripted(), scripted("io", 0x6000, 0x60FF))
    low, high = run.hypervisor(1), run.hypervisor(2)

    def change(hypervisor: Scripted, event: Event) -> Result:
        hypervisor._claim = (ExitReason.IO, 0x5800, 0x58FF)
        hypervisor.guest.claims_changed()
        return Result.read(1)

    low.behave = change
    high.behave = lambda _, __: Result.read(2)
    assert run.go(reads(0x6000), reads(0x5000), reads(0x5000), reads(0x5800), reads(0x6000)) == RunResult(0)
    assert [answer.value for answer in run.engine.answers] == [2, 1, 0xFF, 1, 2]
    assert run.engine.log[0] == ("settle",)
    assert run.engine.log[1] == ("intercept", [Scope(IO, 0x5800, 0x58FF), Scope(IO, 0x6000, 0x60FF)])
    by_claim = {claim.scope.first: run.tower.counters[slot].count for slot, claim in run.claims()}
    assert (by_claim[0x5000], by_claim[0x5800], by_claim[0x6000]) == (1, 1, 2), "counters of before go on"


def test_new_claims_that_the_engine_cannot_trap_end_the_run(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(make().engine), "refused", frozenset({ExitReason.CPUID}))
    run = make(scripted())

    def change(hypervisor: Scripted, event: Event) -> Result:
        hypervisor._claim = (ExitReason.CPUID, 0, 1)
        hypervisor.guest.claims_changed()
        return HANDLED

    run.hypervisor(1).behave = change
    with pytest.raises(HostError, match="L1 Scripted wants cpuid, which the fake engine cannot trap"):
        run.go(reads(0x5000), reads(0x5000))

"""The direct engine on real hardware: exceptions, answers, debugging, and the engine by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import guest_code as guest
import pytest
from guest_code import LevelSpec, Tower, results, run_in, spec_of
from reason_cases import ANSWER
from state_cases import reclaim_msr

from nestvmm.engines import DirectEngine, EngineConfig, RunStatus, SvmEngine, VmxEngine, choose_engine
from nestvmm.errors import HostError
from nestvmm.hypervisors import (
    Direction,
    Event,
    ExitReason,
    Hypervisor,
    Result,
    on,
    on_debug,
    on_instruction,
    on_io,
    on_mmio,
    on_rdmsr,
)
from nestvmm.kvm import HostMemory
from nestvmm.nesting import Account, Clock
from nestvmm.nesting.memory import Slot

pytestmark = pytest.mark.kvm

PORT = 0x5000
AREA = 0xD0000000
MSR = 0x4E560000


class Faulting(Hypervisor):
    """Its port, area and MSR raise an exception in the guest; `code` -1: without error code."""

    def __init__(self, vector: int, code: int = -1) -> None:
        self._result = Result.faulted(vector, None if code < 0 else code)

    @on_io(PORT)
    @on_mmio(AREA, 0x1000)
    @on_rdmsr(MSR)
    def access(self, event: Event) -> Result:
        return self._result


class Changing(Hypervisor):
    """Each access to its area or port adds one to the guest's RBX; reads give 0x1122334455667788."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    @on_io(PORT)
    @on_mmio(AREA, 0x2000)
    def access(self, event: Event) -> Result:
        self.seen.append((event.qualifier, event.direction, event.value))
        regs = self.guest.regs
        regs.rbx += 1
        self.guest.set_regs(regs)
        return Result.read(0x1122334455667788)


class Emulating(Hypervisor):
    @on_instruction(guest.POPCNT)
    def popcnt(self, event: Event) -> Result:
        regs = self.guest.regs
        regs.rax = regs.rbx.bit_count()
        self.guest.set_regs(regs)
        self.guest.skip(len(guest.POPCNT))
        return Result.handled()


class Debugging(Hypervisor):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    @on_debug(1)
    def step(self, event: Event) -> Result:
        self.seen.append((event.qualifier, event.value))
        return Result.handled()


class Halting(Hypervisor):
    def __init__(self) -> None:
        self.seen: list[bytes] = []

    @on(ExitReason.HLT)
    def halt(self, event: Event) -> Result:
        self.seen.append(event.instruction)
        return Result.handled()


def mine(name: str, **options: int) -> LevelSpec:
    return LevelSpec(f"{__name__}:{name}", options)


# exceptions

ACCESSES = {
    "in": guest.rdx(PORT) + b"\xec",
    "load": guest.rdi(AREA) + b"\x8a\x07",
    "rdmsr": guest.rcx(MSR) + b"\x0f\x32",
}


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(("vector", "code"), [(13, 0x18), (13, 0), (6, -1), (12, 0x10), (0, -1)])
def test_an_exception_reaches_the_guests_idt_at_the_instruction(
    tmp_path: Path, vector: int, code: int, access: str
) -> None:
    pop_code = b"" if code < 0 else guest.POP_RAX + guest.keep(0)
    handler = pop_code + guest.POP_RAX + guest.keep(1) + guest.done(vector)
    body = guest.rax(0x7777) + ACCESSES[access]
    image = guest.with_handlers(body + guest.done(99), {vector: handler})
    with Tower(spec_of(tmp_path, image, [mine("Faulting", vector=vector, code=code)])) as tower:
        assert run_in(tower).status == vector
        error, rip = results(tower, 2)
        assert error == max(code, 0)
        # lidt has eight bytes; the access itself is the last one or two
        assert rip == guest.CODE + 8 + len(body) - (1 if access == "in" else 2)


def test_the_faulting_access_changed_nothing(tmp_path: Path) -> None:
    handler = guest.keep(0) + guest.done(6)
    image = guest.with_handlers(guest.rax(0x7777) + ACCESSES["in"] + guest.done(99), {6: handler})
    with Tower(spec_of(tmp_path, image, [mine("Faulting", vector=6)])) as tower:
        assert run_in(tower).status == 6
        assert results(tower, 1) == [0x7777]


def test_an_exception_that_nothing_delivers_is_the_guests_death(tmp_path: Path) -> None:
    with Tower(spec_of(tmp_path, guest.inp(PORT) + guest.done(), [mine("Faulting", vector=6)])) as tower:
        result = run_in(tower)
    assert result.status == 255
    assert result.message.startswith("guest at L2 died: triple fault\n   rax=")


# answers and registers


def test_settling_delivers_the_answer_and_executes_nothing_else(tmp_path: Path) -> None:
    code = guest.inp(PORT) + guest.keep(0) + guest.keep_rbx(1) + guest.done()
    with Tower(spec_of(tmp_path, guest.rbx(40) + code, [mine("Changing")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 2) == [0x88, 41]


def test_a_string_whose_handler_changes_registers_is_whole(tmp_path: Path) -> None:
    code = guest.store(guest.RESULTS + 64, 0x44332211) + guest.rbx(0) + guest.outs(PORT, guest.RESULTS + 64, 4)
    with Tower(spec_of(tmp_path, code + guest.keep_rbx(0) + guest.done(), [mine("Changing")])) as tower:
        assert run_in(tower).status == 0
        elements = [value for _, _, value in tower.hypervisors[0].seen]
        assert elements == [0x11, 0x22, 0x33, 0x44]
        assert results(tower, 1) == [4]


def test_an_access_across_a_page_whose_handler_changes_registers_is_whole(tmp_path: Path) -> None:
    edge = AREA + 0xFFC
    code = guest.rbx(0) + guest.store(edge, 0x8877665544332211) + guest.keep_rbx(0)
    code += guest.load(edge) + guest.keep(1) + guest.keep_rbx(2) + guest.done()
    with Tower(spec_of(tmp_path, code, [mine("Changing")])) as tower:
        assert run_in(tower).status == 0
        assert tower.hypervisors[0].seen == [
            (edge, Direction.WRITE, 0x44332211),
            (AREA + 0x1000, Direction.WRITE, 0x88776655),
            (edge, Direction.READ, 0),
            (AREA + 0x1000, Direction.READ, 0),
        ]
        assert results(tower, 3) == [2, 0x5566778855667788, 4]
        account = Account.of(tower, Clock(), 1)
        assert sum(row.count for row in account.rows) == account.exits == 5


def test_an_instruction_that_kvm_cannot_emulate_is_emulated(tmp_path: Path) -> None:
    """Where KVM runs the instruction itself, the result is the same."""
    code = guest.rbx(0xFF00FF) + guest.POPCNT + guest.keep(0) + guest.done()
    with Tower(spec_of(tmp_path, code, [mine("Emulating"), "logger"])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [16]


def test_single_steps_go_to_the_level_that_debugs(tmp_path: Path) -> None:
    with Tower(spec_of(tmp_path, guest.NOP * 3 + guest.done(3), [mine("Debugging"), "logger"])) as tower:
        assert run_in(tower).status == 3
        # value is where the guest stands: behind each NOP, then behind the two moves of the debug exit
        steps = [1, 2, 3, 13, 23]
        assert tower.hypervisors[0].seen[:5] == [(1, guest.CODE + step) for step in steps]


def test_hlt_is_an_event_with_its_instruction(tmp_path: Path) -> None:
    with Tower(spec_of(tmp_path, guest.HLT + guest.done(4), [mine("Halting")])) as tower:
        assert run_in(tower).status == 4
        assert tower.hypervisors[0].seen == [b"\xf4"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (guest.UD2, "guest at L1 died: triple fault"),
        (guest.rax(0xE0000000) + b"\xff\xe0", "guest at L1 died: "),  # jmp *%rax, where no memory is
    ],
)
def test_a_guest_that_dies_is_shown_with_its_registers(tmp_path: Path, code: bytes, message: str) -> None:
    with Tower(spec_of(tmp_path, code)) as tower:
        result = run_in(tower)
    assert result.status == 255
    assert result.message.startswith(message)
    assert "rip=" in result.message
    assert "cr3=" in result.message


# the engine by itself


@pytest.fixture
def bare() -> Iterator[DirectEngine]:
    """A machine with 64 KiB of memory at 0, that no tower drives."""
    with (
        HostMemory(0x10000) as memory,
        DirectEngine(EngineConfig("bare", 1, memory, [Slot(0, 0x10000, 0, False)])) as one,
    ):
        yield one


def test_registers_and_msrs_are_kvms(bare: DirectEngine) -> None:
    regs, sregs = bare.regs(), bare.sregs()
    regs.rbx = 0x1234
    bare.set_regs(regs)
    sregs.cr2 = 0x5000
    bare.set_sregs(sregs)
    assert (bare.regs().rbx, bare.sregs().cr2) == (0x1234, 0x5000)
    star = 0xC0000081
    assert bare.set_msr(star, 0x10000800000000)
    assert bare.get_msr(star) == 0x10000800000000
    assert bare.get_msr(0x4E560000) is None
    assert not bare.set_msr(0x4E560000, 1)


def test_a_kick_before_the_run_ends_it(bare: DirectEngine) -> None:
    bare.kick()
    assert bare.run() == RunStatus.KICKED


def test_a_late_kick_after_the_end_hurts_nobody() -> None:
    with HostMemory(0x10000) as memory:
        engine = DirectEngine(EngineConfig("pc", 1, memory, [Slot(0, 0x10000, 0, False)]))
        with engine:
            pass
        engine.kick()


def test_the_engine_of_a_name() -> None:
    assert choose_engine("auto") is choose_engine("direct") is DirectEngine
    assert choose_engine("svm") is SvmEngine
    assert choose_engine("vmx") is VmxEngine
    with pytest.raises(HostError, match=r"^engine tcg: not in this version of nestvmm, which has direct, svm, vmx$"):
        choose_engine("tcg")


@pytest.mark.parametrize("engine", [SvmEngine, VmxEngine, DirectEngine])
def test_auto_takes_a_switcher_only_for_what_direct_cannot_trap(
    engine: type[DirectEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    for offered in (SvmEngine, VmxEngine):
        monkeypatch.setattr(offered, "works_here", lambda offered=offered: offered is engine)
    assert choose_engine("auto", [ExitReason.IO, ExitReason.CPUID], "bare") is engine
    assert choose_engine("auto", [ExitReason.HLT], "pc") is engine
    assert choose_engine("auto", [ExitReason.IO, ExitReason.HLT], "bare") is DirectEngine


def test_a_halt_with_interrupts_off_can_never_end(bare: DirectEngine) -> None:
    assert bare.halt() is False


def test_a_halt_ends_by_a_kick(bare: DirectEngine) -> None:
    regs = bare.regs()
    regs.rflags |= 1 << 9
    bare.set_regs(regs)
    timer = threading.Timer(0.1, bare.kick)
    timer.start()
    assert bare.halt() is True
    timer.join()
    bare.interrupt(0x40)
    assert bare.halt() is True


def test_claims_of_msrs_change_while_the_guest_runs() -> None:
    case = reclaim_msr("direct")
    assert (case["status"], case["kept"], case["seen"]) == (0, [0x10, ANSWER, 0x10], [["rdmsr"]])

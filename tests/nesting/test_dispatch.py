"""The loop in C that has handlers handle events: what it does, what it leaves to Python, and what it holds."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bare import Bare, loop
from fake_engine import Exit, FakeEngine, reads
from patience import PATIENCE
from scripted import Run, Scripted, scripted

from nestvmm._dispatch import Dispatch, RegisterState, RegisterView
from nestvmm._native import ffi, lib
from nestvmm.errors import HypervisorError
from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result
from nestvmm.kvm import Regs
from nestvmm.nesting import RunResult
from nestvmm.nesting.guest_view import VcpuState
from nestvmm.x86.event import Outcome

ROOT = Path(__file__).resolve().parents[2]
IO, CPUID = ExitReason.IO, ExitReason.CPUID
# Where the mailbox has registers: the numbers of the instruction encoding.
ORDER = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *Regs.__match_args__[8:])


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Any:
    """That of a fake engine whose level n is outside."""
    box = ffi.new("struct nv_mailbox *")
    box.state = lib.NV_SWITCHER_OUTSIDE
    box.regs = list(range(100, 118))
    monkeypatch.setattr(FakeEngine, "mailbox", int(ffi.cast("uintptr_t", box)))
    return box


# registers


def test_registers_come_from_the_mailbox_and_go_there_behind_the_answer(make: Callable[..., Run], mailbox: Any) -> None:
    run = make(scripted("cpuid", 0, 99))
    seen: list[Regs] = []

    def change(hypervisor: Scripted, event: Event) -> Result:
        regs = hypervisor.guest.regs
        seen.append(regs.copy())
        regs.rsi, regs.rip = 7, regs.rip + 2
        hypervisor.guest.set_regs(regs)
        assert mailbox.regs[ORDER.index("rsi")] == 100 + ORDER.index("rsi"), "not before the event is done"
        return HANDLED

    def answer(event: Any) -> None:
        if event.reason == CPUID:
            assert mailbox.regs[16] == 116, "nor before the event's own answer"
            mailbox.regs[0] = 0xA

    run.hypervisor(1).behave = change
    run.engine.note = answer
    assert run.go(Exit(CPUID)) == RunResult(0)
    assert seen == [Regs(**dict(zip(ORDER, range(100, 118), strict=True)))]
    expected = dict(zip(ORDER, range(100, 118), strict=True)) | {"rsi": 7, "rip": 118, "rax": 0xA}
    assert list(mailbox.regs) == list(expected.values())
    assert run.engine.log == []


def test_registers_that_kvm_holds_are_asked_of_the_engine(make: Callable[..., Run], mailbox: Any) -> None:
    mailbox.state = lib.NV_SWITCHER_RUNNING
    run = make(scripted("cpuid", 0, 99))

    def change(hypervisor: Scripted, event: Event) -> Result:
        regs = hypervisor.guest.regs
        regs.rbx += 1
        hypervisor.guest.set_regs(regs)
        return HANDLED

    run.hypervisor(1).behave = change
    before = run.engine.regs()
    assert run.go(Exit(CPUID)) == RunResult(0)
    assert run.engine.log == [("settle",), ("regs", {"rbx": before.rbx + 1})]
    assert list(mailbox.regs) == list(range(100, 118))


def test_other_state_is_written_by_python(make: Callable[..., Run], mailbox: Any) -> None:
    run = make(scripted("cpuid", 0, 99))

    def change(hypervisor: Scripted, event: Event) -> Result:
        sregs = hypervisor.guest.sregs
        sregs.cr3 = 0x5000
        hypervisor.guest.set_sregs(sregs)
        return HANDLED

    run.hypervisor(1).behave = change
    assert run.go(Exit(CPUID)) == RunResult(0)
    assert run.engine.log == [("settle",), ("sregs", 0x5000)]


def test_a_guests_registers_wrap_and_are_the_handlers_own(make: Callable[..., Run], mailbox: Any) -> None:
    run = make(scripted("cpuid", 0, 99))
    kept: list[Regs] = []

    def change(hypervisor: Scripted, event: Event) -> Result:
        guest = hypervisor.guest
        kept.append(guest.regs)
        regs, others = guest.regs, guest.regs
        regs.rax = -1
        assert (regs.rax, regs.copy().rax, others.rax, guest.regs.rax) == ((1 << 64) - 1, (1 << 64) - 1, 100, 100)
        regs.rbx = 5
        guest.set_regs(regs)
        others.rcx = 6
        assert (guest.regs.rbx, guest.regs.rcx) == (5, 101)
        guest.set_regs(others)
        return HANDLED

    run.hypervisor(1).behave = change
    assert run.go(Exit(CPUID)) == RunResult(0)
    assert kept == [Regs(**dict(zip(ORDER, range(100, 118), strict=True)))]
    # the second set took the first one's changes back, and these are written, too
    assert list(mailbox.regs) == [100, 6, *range(102, 118)]


def test_registers_of_a_closed_tower_are_the_engines_to_give(make: Callable[..., Run], mailbox: Any) -> None:
    """The mailbox's memory is no more; a real engine says that it is closed."""
    run = make(scripted())
    guest = run.hypervisor(1).guest
    assert guest.regs.rax == 100
    run.tower.close()
    assert guest.regs == run.engine.regs()
    assert guest.regs.rax != 100


def test_registers_are_regs(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda hypervisor, _: hypervisor.guest.set_regs(3)
    with pytest.raises(HypervisorError, match=r"TypeError: registers are a nestvmm.kvm.Regs, not a int$"):
        run.go(reads(0x5000))


def test_an_engine_gives_regs() -> None:
    class Odd(Bare):
        def regs(self) -> Any:
            return 5

    with pytest.raises(TypeError, match=r"an engine's registers are a nestvmm\.kvm\.Regs, not a int"):
        VcpuState(Odd()).regs()  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="this state is of no engine"):
        RegisterState.__new__(RegisterState).regs()
    with pytest.raises(RuntimeError, match="this view is of no registers"):
        _ = RegisterView.__new__(RegisterView).regs
    with pytest.raises(RuntimeError, match="no vCPU is given"):
        Dispatch.__new__(Dispatch).run()


# what a handler does


def test_a_handler_that_runs_what_runs_it_is_refused(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda hypervisor, _: run.tower.dispatch.run()
    with pytest.raises(HypervisorError, match=r"RuntimeError: a handler cannot run what runs it$"):
        run.go(reads(0x5000))
    run.hypervisor(1).behave = lambda hypervisor, _: run.tower.dispatch.ask()
    with pytest.raises(HypervisorError, match=r"RuntimeError: a handler cannot run what runs it$"):
        run.go(reads(0x5000))
    run.hypervisor(1).behave = lambda hypervisor, _: Result.read(9)
    assert run.go(reads(0x5000)) == RunResult(0), "and nothing of it stays"
    assert run.engine.answers[-1].value == 9


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_what_is_no_fault_goes_through(make: Callable[..., Run], error: type[BaseException]) -> None:
    run = make(scripted())

    def interrupted(hypervisor: Scripted, event: Event) -> Result:
        raise error

    run.hypervisor(1).behave = interrupted
    with pytest.raises(error):
        run.go(reads(0x5000))


def test_sys_exit_is_a_fault(make: Callable[..., Run]) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda hypervisor, _: sys.exit(3)
    with pytest.raises(HypervisorError, match=r"^L1 Scripted raised SystemExit on <io read 0x5000"):
        run.go(reads(0x5000))


def test_a_handler_may_drop_itself(make: Callable[..., Run]) -> None:
    run = make(scripted())
    dispatch = run.tower.dispatch
    (slot,) = (slot for slot, claim in run.claims() if claim.level == 1)

    def put(handler: Callable[[Event], Result]) -> None:
        dispatch.handlers = (*dispatch.handlers[:slot], handler, *dispatch.handlers[slot + 1 :])

    class Once:
        def __init__(self) -> None:
            self.word = "last"

        def __call__(self, event: Event) -> Result:
            put(lambda _: Result.read(6))
            gc.collect()
            return Result.read_bytes(self.word.encode())

    put(Once())
    gone = weakref.ref(dispatch.handlers[slot])
    assert run.go(reads(0x5000, 4), reads(0x5000)) == RunResult(0)
    assert [answer.value for answer in run.engine.answers] == [int.from_bytes(b"last", "little"), 6]
    assert gone() is None


def test_handlers_are_a_tuple() -> None:
    one = loop(Bare())
    with pytest.raises(TypeError, match="the handlers by slot are a tuple"):
        one.handlers = [None]  # type: ignore[assignment]
    assert one.handlers == ()
    with pytest.raises(RuntimeError, match="no handler in Python has the pending event"):
        one.ask()


def test_nothing_is_left_behind_by_a_hundred_thousand_events(make: Callable[..., Run], mailbox: Any) -> None:
    run = make(scripted("cpuid", 0, (1 << 32) - 1), scripted())
    for level in (1, 2):
        run.hypervisor(level).seen = type("Nothing", (), {"append": lambda self, event: None})()

    def change(hypervisor: Scripted, event: Event) -> Result:
        regs = hypervisor.guest.regs
        regs.rax = event.qualifier << 20
        hypervisor.guest.set_regs(regs)
        return Result.handled()

    run.hypervisor(1).behave = change
    run.hypervisor(2).behave = lambda hypervisor, event: Result.read(event.qualifier << 40)

    def some(count: int) -> Iterator[Exit]:
        for n in range(count // 2):
            yield Exit(CPUID, 0x40000000 + n)
            yield reads(0x5000 + n % 0x100, 8)

    def go(count: int) -> None:
        left = some(count)

        def more(_: Any) -> None:
            run.engine.exits.extend(exit_ for exit_ in (next(left, None),) if exit_ is not None)
            run.engine.answers.clear()

        run.engine.note = more
        assert run.go(next(left)) == RunResult(0)

    objects = (HANDLED, Outcome.HANDLED, CPUID, IO, Event, Result, Regs, run.hypervisor(1), run.tower.dispatch)
    go(1000)
    tracemalloc.start()
    try:
        before, counts = tracemalloc.get_traced_memory()[0], [sys.getrefcount(one) for one in objects]
        go(100_000)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 20_000
    assert [sys.getrefcount(one) for one in objects] == counts
    assert mailbox.regs[0] == (0x40000000 + 49_999) << 20


def test_an_interpreter_ends_while_level_n_runs() -> None:
    script = """
import ctypes, pathlib, sys, threading, time
sys.path[:0] = ["tests", "tests/nesting"]
from bare import Bare, loop
from nestvmm._native import ffi, lib
engine = Bare()
ops = ffi.new("struct nv_engine_ops *")
pause = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p).value
ops.enter = ffi.cast("int(*)(struct nv_vcpu *)", pause)
engine.vcpu.ops = ops
thread = threading.Thread(target=loop(engine).run, daemon=True)
thread.start()
PAUSE = "34 "  # the number of the system call in which it stays
while not pathlib.Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().startswith(PAUSE):
    time.sleep(0.001)
print("ended")
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "ended\n", "")

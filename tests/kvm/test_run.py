"""Guests of a few instructions, and the exits that they cause."""

from __future__ import annotations

import os
import signal
import threading
import time
from errno import EINVAL
from pathlib import Path

import pytest

from nestvmm.kvm import (
    BREAK_EXECUTE,
    BREAK_WRITE,
    Breakpoint,
    Cap,
    DebugExit,
    HltExit,
    InternalErrorExit,
    InterruptedExit,
    IoExit,
    IrqWindowOpenExit,
    KvmError,
    MmioExit,
    MsrFilterRange,
    RdmsrExit,
    Regs,
    ShutdownExit,
    WrmsrExit,
)

pytestmark = pytest.mark.kvm

CODE = 0x1000
KVM_PVM = Path("/sys/module/kvm_pvm")
SINGLE_STEP = 1 << 14  # in DR6


def test_port_write_and_halt(guest) -> None:
    vcpu = guest("b042 e680 f4").vcpu  # mov al, 0x42; out 0x80, al; hlt
    assert vcpu.run() == IoExit(True, 0x80, 1, 1, b"\x42")
    assert vcpu.run() == HltExit()
    assert vcpu.get_regs().rip == CODE + 5


@pytest.mark.parametrize("answer", [0xBEEF, b"\xef\xbe"])
def test_port_read_is_answered(guest, answer: int | bytes) -> None:
    vcpu = guest("ba 34 12 ed f4").vcpu  # mov dx, 0x1234; in ax, dx; hlt
    assert vcpu.run() == IoExit(False, 0x1234, 2)
    vcpu.reply(answer)
    assert vcpu.run() == HltExit()
    assert vcpu.get_regs().rax == 0xBEEF


def test_mmio_write_and_read(guest) -> None:
    # ds = 0xb800; mov [8], ax; mov bx, [10]; hlt
    vcpu = guest("b8 00 b8 8e d8 a3 08 00 8b 1e 0a 00 f4").vcpu
    assert vcpu.run() == MmioExit(True, 0xB8008, 2, b"\x00\xb8")
    assert vcpu.run() == MmioExit(False, 0xB800A, 2)
    vcpu.reply(0x1D42)
    assert vcpu.run() == HltExit()
    assert vcpu.get_regs().rbx == 0x1D42


def test_string_output(guest) -> None:
    machine = guest("be 00 20 b9 03 00 ba f8 03 f3 6e f4")  # si = 0x2000, cx = 3, dx = 0x3f8; rep outsb; hlt
    machine.memory.write(0x2000, b"abc")
    written = b""
    while isinstance(exit_ := machine.vcpu.run(), IoExit):
        assert (exit_.is_write, exit_.port, exit_.size) == (True, 0x3F8, 1)
        written += exit_.data
    assert (written, exit_) == (b"abc", HltExit())


def test_string_input(guest) -> None:
    machine = guest("bf 00 20 b9 04 00 ba f8 03 f3 6d f4")  # di = 0x2000, cx = 4; rep insw; hlt
    given = b""
    while isinstance(exit_ := machine.vcpu.run(), IoExit):
        assert (exit_.is_write, exit_.port, exit_.size, exit_.data) == (False, 0x3F8, 2, b"")
        answer = bytes(range(len(given), len(given) + exit_.size * exit_.count))
        machine.vcpu.reply(answer)
        given += answer
    assert exit_ == HltExit()
    assert given == bytes(range(8))
    assert machine.memory.read(0x2000, 8) == given


def test_msr_filter(guest) -> None:
    # ecx = 0x174; rdmsr; ebx = eax; wrmsr; hlt
    machine = guest("66 b9 74 01 00 00 0f 32 66 89 c3 0f 30 f4")
    machine.vm.enable_cap(Cap.X86_USER_SPACE_MSR, 4)
    machine.vm.set_msr_filter([MsrFilterRange(0x174, 3, allowed=b"\x06")])
    assert machine.vcpu.run() == RdmsrExit(0x174, 4)
    machine.vcpu.reply(0x1111111122222222)
    assert machine.vcpu.run() == WrmsrExit(0x174, 4, 0x1111111122222222)
    assert machine.vcpu.run() == HltExit()
    assert machine.vcpu.get_regs().rbx & 0xFFFFFFFF == 0x22222222


def test_msr_filter_lets_through_what_it_allows_and_can_be_lifted(guest) -> None:
    machine = guest("66 b9 75 01 00 00 0f 32 f4")
    machine.vm.enable_cap(Cap.X86_USER_SPACE_MSR, 4)
    machine.vcpu.set_msrs({0x175: 0x77})
    machine.vm.set_msr_filter([MsrFilterRange(0x174, 3, allowed=b"\x06")])
    assert machine.vcpu.run() == HltExit()
    assert machine.vcpu.get_regs().rax == 0x77
    machine.vm.set_msr_filter([MsrFilterRange(0x175)])
    machine.vm.set_msr_filter([])
    machine.vcpu.set_regs(Regs(rip=CODE))
    assert machine.vcpu.run() == HltExit()
    assert machine.vcpu.get_regs().rax == 0x77


def test_a_refused_msr_raises_gp(guest) -> None:
    machine = guest("66 b9 74 01 00 00 0f 32 f4")
    machine.memory.write(13 * 4, b"\x00\x30\x00\x00")  # vector 13: 0:0x3000
    machine.memory.write(0x3000, bytes.fromhex("b00d e680 f4"))
    machine.vm.enable_cap(Cap.X86_USER_SPACE_MSR, 4)
    machine.vm.set_msr_filter([MsrFilterRange(0x174, write=False)])
    assert machine.vcpu.run() == RdmsrExit(0x174, 4)
    machine.vcpu.refuse()
    assert machine.vcpu.run() == IoExit(True, 0x80, 1, 1, b"\x0d")


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([MsrFilterRange(0)] * 17, "17 ranges: an MSR filter has at most 16"),
        ([MsrFilterRange(0, 0)], "count must be 1 to 12288"),
        ([MsrFilterRange(0, 12289)], "count must be 1 to 12288"),
        ([MsrFilterRange(0, 9, b"1")], "allowed must have 2 bytes"),
    ],
)
def test_a_wrong_msr_filter_is_refused(guest, ranges: list[MsrFilterRange], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guest("f4").vm.set_msr_filter(ranges)


def test_an_msr_filter_may_not_deny_everything_without_a_range(guest) -> None:
    with pytest.raises(KvmError, match=r"KVM_X86_SET_MSR_FILTER failed: Invalid argument \(EINVAL\)"):
        guest("f4").vm.set_msr_filter([], default_deny=True)


def test_single_step(guest) -> None:
    vcpu = guest("90 b001 f4").vcpu
    vcpu.set_guest_debug(single_step=True)
    for rip in (CODE + 1, CODE + 3):
        exit_ = vcpu.run()
        assert isinstance(exit_, DebugExit)
        assert (exit_.exception, exit_.pc, exit_.dr6 & SINGLE_STEP) == (1, rip, SINGLE_STEP)
    vcpu.set_guest_debug()
    assert vcpu.run() == HltExit()


def test_hardware_breakpoint(guest) -> None:
    vcpu = guest("90 90 90 f4").vcpu
    vcpu.set_guest_debug(hardware_breakpoints=[Breakpoint(0xFFFF), Breakpoint(CODE + 2, BREAK_EXECUTE)])
    exit_ = vcpu.run()
    assert isinstance(exit_, DebugExit)
    assert (exit_.exception, exit_.pc, exit_.dr6 & 0xF) == (1, CODE + 2, 2)
    vcpu.set_guest_debug()
    assert vcpu.run() == HltExit()


def test_software_breakpoint(guest) -> None:
    machine = guest("90 cc f4")
    machine.enter_long_mode()
    machine.vcpu.set_guest_debug(software_breakpoints=True)
    exit_ = machine.vcpu.run()
    if KVM_PVM.exists():  # it interprets CPL 0 and cannot interpret INT3
        assert isinstance(exit_, InternalErrorExit)
        assert (exit_.suberror, exit_.instruction[0:2]) == (1, b"\xcc\xf4")
    else:
        assert isinstance(exit_, DebugExit)
        assert (exit_.exception, exit_.pc) == (3, CODE + 1)
    assert machine.vcpu.get_regs().rip == CODE + 1


@pytest.mark.parametrize(
    ("breakpoints", "message"),
    [
        ([Breakpoint(0)] * 5, "5 breakpoints: the processor has 4"),
        ([Breakpoint(0, 2)], "kind must be 0, 1 or 3"),
        ([Breakpoint(0, BREAK_WRITE, 3)], "length must be 1, 2, 4 or 8 bytes"),
        ([Breakpoint(0, BREAK_EXECUTE, 4)], "and 1 to execute"),
        ([Breakpoint(2, BREAK_WRITE, 4)], "the address must be a multiple of the length"),
    ],
)
def test_a_wrong_breakpoint_is_refused(guest, breakpoints: list[Breakpoint], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guest("f4").vcpu.set_guest_debug(hardware_breakpoints=breakpoints)


def test_an_external_interrupt_reaches_its_handler(guest) -> None:
    machine = guest("fb ebfe")  # sti; jmp to itself
    machine.memory.write(0x21 * 4, b"\x00\x30\x00\x00")
    machine.memory.write(0x3000, bytes.fromhex("e621 cf"))  # out 0x21, al; iret
    machine.vcpu.kvm_run.request_interrupt_window = 1
    assert machine.vcpu.run() == IrqWindowOpenExit()
    assert machine.vcpu.kvm_run.ready_for_interrupt_injection == 1
    machine.vcpu.kvm_run.request_interrupt_window = 0
    machine.vcpu.interrupt(0x21)
    assert machine.vcpu.run() == IoExit(True, 0x21, 1, 1, b"\0")


def test_an_nmi_reaches_its_handler(guest) -> None:
    machine = guest("90 f4")
    machine.memory.write(2 * 4, b"\x00\x30\x00\x00")
    machine.memory.write(0x3000, bytes.fromhex("e602 cf"))
    machine.vcpu.nmi()
    assert machine.vcpu.run() == IoExit(True, 2, 1, 1, b"\0")
    assert machine.vcpu.run() == HltExit()


def test_immediate_exit(guest) -> None:
    vcpu = guest("e680 f4").vcpu
    vcpu.immediate_exit = True
    assert vcpu.run() == InterruptedExit()
    assert vcpu.get_regs().rip == CODE
    vcpu.immediate_exit = False
    assert vcpu.run() == IoExit(True, 0x80, 1, 1, b"\0")


def test_a_signal_interrupts_an_endless_loop(guest) -> None:
    vcpu = guest("ebfe").vcpu
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    thread = threading.get_ident()
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(thread, signal.SIGUSR1))
    start = time.thread_time()
    timer.start()
    try:
        assert vcpu.run() == InterruptedExit()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, old)
    # the guest's loop is this thread's time
    assert time.thread_time() - start < 5


def test_the_interpreter_runs_on_while_a_guest_does(guest) -> None:
    vcpu = guest("ebfe").vcpu
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    exits = []
    thread = threading.Thread(target=lambda: exits.append(vcpu.run()))
    thread.start()
    guest_time = time.pthread_getcpuclockid(thread.ident or 0)
    count = 0
    while count < 1000 or time.clock_gettime(guest_time) < 0.05:
        count += 1
    assert exits == []
    vcpu.immediate_exit = True
    signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
    thread.join()
    signal.signal(signal.SIGUSR1, old)
    assert exits == [InterruptedExit()]


def test_a_triple_fault_is_a_shutdown(guest) -> None:
    machine = guest("0f 0b")  # ud2
    machine.enter_long_mode()
    assert machine.vcpu.run() == ShutdownExit()


def test_a_jump_outside_memory_is_an_internal_error(guest) -> None:
    vcpu = guest("ea 00 00 00 80").vcpu  # jmp 0x8000:0
    exit_ = vcpu.run()
    assert isinstance(exit_, InternalErrorExit)
    assert exit_.suberror == 1


def test_statistics_count_exits(guest) -> None:
    vcpu = guest("e680 e680 e680 f4").vcpu
    with vcpu.stats() as stats:
        assert stats.id.startswith(f"kvm-{os.getpid()}/vcpu-0")
        before = stats.read()
        while isinstance(vcpu.run(), IoExit):
            pass
        values = stats.read()
        assert values["halt_exits"] == before["halt_exits"] + 1
        assert values["exits"] >= before["exits"] + 4
        buckets = next(d for d in stats.descriptors if d.size > 1)
        assert len(values[buckets.name]) == buckets.size


def test_a_run_that_kvm_refuses_is_an_error(guest) -> None:
    vcpu = guest("f4").vcpu
    events = vcpu.get_events()
    vcpu.kvm_run.kvm_valid_regs = 1 << 63
    with pytest.raises(KvmError) as caught:
        vcpu.run()
    assert (caught.value.ioctl, caught.value.errno, caught.value.capability) == ("KVM_RUN", EINVAL, None)
    assert vcpu.get_events() == events

"""Decoding and answering of made-up exits: no KVM is needed."""

from __future__ import annotations

from errno import EFAULT, EINTR, EINVAL

import pytest

from nestvmm._native import ffi, lib
from nestvmm.kvm import exits
from nestvmm.kvm.exits import decode, outcome
from nestvmm.kvm.replies import refuse, reply

DATA = 4096


class Run:
    """A struct kvm_run with a page of port data behind it."""

    def __init__(self, reason: int) -> None:
        self.bytes = ffi.new("char[]", 2 * DATA)
        self.c = ffi.cast("struct kvm_run *", self.bytes)
        self.c.exit_reason = reason

    @property
    def data(self) -> ffi.buffer:
        return ffi.buffer(self.bytes + DATA, DATA)


def port(direction: int, number: int, size: int, count: int) -> Run:
    run = Run(lib.KVM_EXIT_IO)
    run.c.io.direction, run.c.io.size, run.c.io.port, run.c.io.count = direction, size, number, count
    run.c.io.data_offset = DATA
    return run


def test_port_write_is_copied() -> None:
    run = port(1, 0x3F8, 2, 3)
    run.data[0:6] = b"abcdef"
    exit_ = decode(run.c)
    run.data[0:6] = b"......"
    assert exit_ == exits.IoExit(True, 0x3F8, 2, 3, b"abcdef")
    with pytest.raises(ValueError, match="exit reason 2 awaits no answer"):
        reply(run.c, 0)


def test_port_read_is_answered() -> None:
    run = port(0, 0x60, 4, 1)
    assert decode(run.c) == exits.IoExit(False, 0x60, 4, 1, b"")
    reply(run.c, 0x12345678)
    assert run.data[0:5] == b"\x78\x56\x34\x12\0"
    reply(run.c, b"wxyz")
    assert run.data[0:5] == b"wxyz\0"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"abc", "the answer has 3 bytes, the exit awaits 4"),
        (b"abcde", "the answer has 5 bytes, the exit awaits 4"),
        (1 << 32, "0x100000000 is not an unsigned number of 4 bytes"),
        (-1, "-0x1 is not an unsigned number of 4 bytes"),
    ],
)
def test_a_wrong_answer_is_refused(answer: bytes | int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reply(port(0, 0x60, 4, 1).c, answer)


def test_mmio() -> None:
    run = Run(lib.KVM_EXIT_MMIO)
    run.c.mmio.phys_addr, run.c.mmio.len, run.c.mmio.is_write = 0xFEB00000, 4, 1
    run.c.mmio.data = list(range(1, 9))
    assert decode(run.c) == exits.MmioExit(True, 0xFEB00000, 4, b"\1\2\3\4")
    run.c.mmio.is_write = 0
    assert decode(run.c) == exits.MmioExit(False, 0xFEB00000, 4, b"")
    reply(run.c, 0xAABBCCDD)
    assert list(run.c.mmio.data) == [0xDD, 0xCC, 0xBB, 0xAA, 5, 6, 7, 8]


def test_msr_accesses() -> None:
    run = Run(lib.KVM_EXIT_X86_RDMSR)
    run.c.msr.index, run.c.msr.reason = 0x4B564D00, 4
    assert decode(run.c) == exits.RdmsrExit(0x4B564D00, 4)
    reply(run.c, 2**64 - 1)
    assert (run.c.msr.data, run.c.msr.error) == (2**64 - 1, 0)
    refuse(run.c)
    assert run.c.msr.error == 1
    run.c.exit_reason, run.c.msr.data = lib.KVM_EXIT_X86_WRMSR, 7
    assert decode(run.c) == exits.WrmsrExit(0x4B564D00, 4, 7)
    with pytest.raises(ValueError, match="exit reason 30 awaits no answer"):
        reply(run.c, 1)
    with pytest.raises(ValueError, match="only an MSR access can be refused, not exit reason 5"):
        refuse(Run(lib.KVM_EXIT_HLT).c)


def test_hypercalls() -> None:
    run = Run(lib.KVM_EXIT_HYPERCALL)
    run.c.hypercall.nr, run.c.hypercall.args, run.c.hypercall.longmode = 12, [1, 2, 3, 4, 5, 6], 1
    assert decode(run.c) == exits.HypercallExit(12, (1, 2, 3, 4, 5, 6), 1)
    reply(run.c, 99)
    assert run.c.hypercall.ret == 99

    run = Run(lib.KVM_EXIT_XEN)
    run.c.xen.u.hcall.input, run.c.xen.u.hcall.params = 17, [6, 5, 4, 3, 2, 1]
    assert decode(run.c) == exits.XenHypercallExit(0, 0, 17, (6, 5, 4, 3, 2, 1))
    reply(run.c, 98)
    assert run.c.xen.u.hcall.result == 98

    run = Run(lib.KVM_EXIT_TDX)
    words = ffi.cast("unsigned long long *", ffi.addressof(run.c, "padding"))
    words[0:8] = [0, 0x10002, 11, 1, 2, 3, 4, 5]
    assert decode(run.c) == exits.TdxExit(0, 0x10002, (1, 2, 3, 4, 5))
    reply(run.c, 97)
    assert words[2] == 97


def test_hyperv() -> None:
    run = Run(lib.KVM_EXIT_HYPERV)
    run.c.hyperv.type = 1
    synic = run.c.hyperv.u.synic
    synic.msr, synic.control, synic.evt_page, synic.msg_page = 1, 2, 3, 4
    assert decode(run.c) == exits.HypervSynicExit(1, 2, 3, 4)
    with pytest.raises(ValueError, match="exit reason 27 awaits no answer"):
        reply(run.c, 1)
    run.c.hyperv.type = 2
    run.c.hyperv.u.hcall.input, run.c.hyperv.u.hcall.params = 8, [9, 10]
    assert decode(run.c) == exits.HypervHypercallExit(8, (9, 10))
    reply(run.c, 5)
    assert run.c.hyperv.u.hcall.result == 5
    run.c.hyperv.type = 3
    debugger = run.c.hyperv.u.syndbg
    debugger.msr, debugger.control, debugger.send_page, debugger.recv_page, debugger.pending_page = 1, 2, 3, 4, 5
    assert decode(run.c) == exits.HypervSyndbgExit(1, 2, 3, 4, 5)
    reply(run.c, 6)
    assert debugger.status == 6
    run.c.hyperv.type = 77
    assert isinstance(decode(run.c), exits.UnknownExit)


def test_internal_errors() -> None:
    run = Run(lib.KVM_EXIT_INTERNAL_ERROR)
    run.c.internal.suberror, run.c.internal.ndata, run.c.internal.data = 3, 2, [7, 8]
    assert decode(run.c) == exits.InternalErrorExit(3, (7, 8))
    run.c.internal.ndata = 1000
    assert len(decode(run.c).data) == 16

    run = Run(lib.KVM_EXIT_INTERNAL_ERROR)
    run.c.emulation_failure.suberror, run.c.emulation_failure.ndata, run.c.emulation_failure.flags = 1, 3, 1
    run.c.emulation_failure.insn_size, run.c.emulation_failure.insn_bytes = 2, [0x0F, 0x01]
    assert decode(run.c).instruction == b"\x0f\x01"
    run.c.emulation_failure.insn_size = 255
    assert len(decode(run.c).instruction) == 15
    run.c.emulation_failure.flags = 0
    assert decode(run.c).instruction == b""
    run.c.emulation_failure.ndata = 0
    assert decode(run.c) == exits.InternalErrorExit(1, (), b"")


def test_system_event() -> None:
    run = Run(lib.KVM_EXIT_SYSTEM_EVENT)
    run.c.system_event.type, run.c.system_event.ndata, run.c.system_event.data = 2, 1, [5]
    assert decode(run.c) == exits.SystemEventExit(2, (5,))


@pytest.mark.parametrize(
    ("reason", "member", "values", "expected"),
    [
        (0, "hw", {"hardware_exit_reason": 9}, exits.UnknownHardwareExit(9)),
        (1, "ex", {"exception": 6, "error_code": 7}, exits.ExceptionExit(6, 7)),
        (9, "fail_entry", {"hardware_entry_failure_reason": 33, "cpu": 1}, exits.FailEntryExit(33, 1)),
        (12, "tpr_access", {"rip": 5, "is_write": 1}, exits.TprAccessExit(5, 1)),
        (26, "eoi", {"vector": 0x31}, exits.IoapicEoiExit(0x31)),
        (37, "notify", {"flags": 1}, exits.NotifyExit(1)),
    ],
)
def test_exits_with_fields(reason: int, member: str, values: dict[str, int], expected: exits.Exit) -> None:
    run = Run(reason)
    for name, value in values.items():
        setattr(getattr(run.c, member), name, value)
    assert decode(run.c) == expected
    assert decode(run.c).reason == reason


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (5, exits.HltExit),
        (7, exits.IrqWindowOpenExit),
        (8, exits.ShutdownExit),
        (10, exits.InterruptedExit),
        (11, exits.SetTprExit),
        (16, exits.NmiExit),
        (31, exits.DirtyRingFullExit),
        (32, exits.ApResetHoldExit),
        (33, exits.BusLockExit),
    ],
)
def test_exits_without_fields(reason: int, kind: type[exits.Exit]) -> None:
    assert decode(Run(reason).c) == kind()
    assert kind().reason == reason


def test_debug_and_memory_fault() -> None:
    run = Run(lib.KVM_EXIT_DEBUG)
    arch = run.c.debug.arch
    arch.exception, arch.pc, arch.dr6, arch.dr7 = 1, 0x1000, 0xFFFF4FF0, 0x400
    assert decode(run.c) == exits.DebugExit(1, 0x1000, 0xFFFF4FF0, 0x400)

    run = Run(39)
    ffi.cast("unsigned long long *", ffi.addressof(run.c, "padding"))[0:3] = [8, 0x5000, 0x1000]
    assert decode(run.c) == exits.MemoryFaultExit(8, 0x5000, 0x1000)


def test_results_of_kvm_run() -> None:
    assert outcome(Run(lib.KVM_EXIT_HLT).c, 0) == exits.HltExit()
    assert outcome(Run(lib.KVM_EXIT_HLT).c, -EINTR) == exits.InterruptedExit()
    for errno in (EFAULT, 133):  # EHWPOISON
        assert outcome(Run(39).c, -errno) == exits.MemoryFaultExit(0, 0, 0)
        assert outcome(Run(lib.KVM_EXIT_UNKNOWN).c, -errno) is None
    assert outcome(Run(39).c, -EINVAL) is None


@pytest.mark.parametrize("reason", [13, 15, 38, 1000, 2**32 - 1])
def test_an_unknown_reason_is_a_value(reason: int) -> None:
    run = Run(reason)
    run.c.padding[0] = b"!"
    assert decode(run.c) == exits.UnknownExit(reason, b"!" + bytes(255))
    assert decode(run.c).reason == reason
    with pytest.raises(ValueError, match=f"exit reason {reason} awaits no answer"):
        reply(run.c, 0)


def test_every_reason_of_x86_has_a_type() -> None:
    known = {reason for reason in range(64) if not isinstance(decode(port_or_plain(reason).c), exits.UnknownExit)}
    assert known == {*range(13), 16, 17, 24, 26, 27, *range(29, 35), 37, 39, 40}


def port_or_plain(reason: int) -> Run:
    run = Run(reason)
    if reason == lib.KVM_EXIT_HYPERV:
        run.c.hyperv.type = 1
    return run

"""Why KVM_RUN came back: one immutable type per KVM_EXIT_* of x86, a value for every other reason.

`decode` is a pure function over a struct kvm_run; whatever an exit lends is copied. Field names are those of
<linux/kvm.h>, except that MSR exits call KVM's reason for asking `cause` (KVM_MSR_EXIT_REASON_*: 1 invalid, 2 unknown,
4 filtered), and that I/O and MMIO name alike what is alike.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT, EINTR
from operator import attrgetter
from typing import Any, ClassVar

from nestvmm._native import ffi, lib
from nestvmm.kvm.record import Value

__all__ = [
    "ApResetHoldExit",
    "BusLockExit",
    "DebugExit",
    "DirtyRingFullExit",
    "ExceptionExit",
    "Exit",
    "FailEntryExit",
    "HltExit",
    "HypercallExit",
    "HypervHypercallExit",
    "HypervSyndbgExit",
    "HypervSynicExit",
    "InternalErrorExit",
    "InterruptedExit",
    "IoExit",
    "IoapicEoiExit",
    "IrqWindowOpenExit",
    "MemoryFaultExit",
    "MmioExit",
    "NmiExit",
    "NotifyExit",
    "RdmsrExit",
    "SetTprExit",
    "ShutdownExit",
    "SystemEventExit",
    "TdxExit",
    "TprAccessExit",
    "UnknownExit",
    "UnknownHardwareExit",
    "WrmsrExit",
    "XenHypercallExit",
    "decode",
    "outcome",
    "port_data",
    "tdx",
]

_BY_REASON: dict[int, type[Exit]] = {}


class Exit(Value):
    """Base of all exits. Class options: the KVM_EXIT_* number, and the member of struct kvm_run with the fields."""

    _reason: ClassVar[int]
    _member: ClassVar[Callable[[Any], Any]]

    def __init_subclass__(cls, reason: int | None = None, member: str = "exit_reason") -> None:
        cls._member = attrgetter(member)
        if reason is not None:
            cls._reason = reason
            _BY_REASON.setdefault(reason, cls)

    @property
    def reason(self) -> int:
        """The KVM_EXIT_* number."""
        return self._reason

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """This exit from a struct kvm_run whose reason it is."""
        return cls.of(cls._member(run))


class UnknownExit(Exit):
    """A reason that this package does not know, with the 256 bytes that describe it."""

    number: int
    data: bytes

    @property
    def reason(self) -> int:
        """The KVM_EXIT_* number."""
        return self.number

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """Any exit, undecoded."""
        return cls(run.exit_reason, bytes(ffi.buffer(run.padding)))


class UnknownHardwareExit(Exit, reason=lib.KVM_EXIT_UNKNOWN, member="hw"):
    """The processor left the guest for a reason that KVM does not know."""

    hardware_exit_reason: int


class ExceptionExit(Exit, reason=lib.KVM_EXIT_EXCEPTION, member="ex"):
    """An exception that KVM cannot handle."""

    exception: int
    error_code: int


class IoExit(Exit, reason=lib.KVM_EXIT_IO):
    """IN, OUT, INS or OUTS: `count` elements of `size` bytes; `data` is what is written, empty for a read.

    Answer a read by `Vcpu.reply` with size * count bytes.
    """

    is_write: bool
    port: int
    size: int
    count: int = 1
    data: bytes = b""

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The access, with a copy of its data."""
        io = run.io
        is_write = io.direction == lib.KVM_EXIT_IO_OUT
        return cls(is_write, io.port, io.size, io.count, bytes(port_data(run)) if is_write else b"")


class HypercallExit(Exit, reason=lib.KVM_EXIT_HYPERCALL, member="hypercall"):
    """A KVM hypercall that userspace handles. Answer by `Vcpu.reply` with the result."""

    nr: int
    args: tuple[int, ...] = (0,) * 6
    longmode: int = 0


class DebugExit(Exit, reason=lib.KVM_EXIT_DEBUG, member="debug.arch"):
    """A debug event that `set_guest_debug` asked for: vector 1 or 3, linear address, DR6, DR7."""

    exception: int
    pc: int
    dr6: int
    dr7: int


class HltExit(Exit, reason=lib.KVM_EXIT_HLT):
    """HLT, on a VM without in-kernel irqchip."""


class MmioExit(Exit, reason=lib.KVM_EXIT_MMIO):
    """An access to a guest-physical address without memory; `data` is what is written, empty for a read.

    Answer a read by `Vcpu.reply` with `size` bytes.
    """

    is_write: bool
    phys_addr: int
    size: int
    data: bytes = b""

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The access, with a copy of its data."""
        mmio = run.mmio
        is_write = bool(mmio.is_write)
        data = bytes(ffi.buffer(mmio.data)[0 : mmio.len]) if is_write else b""
        return cls(is_write, mmio.phys_addr, mmio.len, data)


class IrqWindowOpenExit(Exit, reason=lib.KVM_EXIT_IRQ_WINDOW_OPEN):
    """The guest can take an interrupt; `request_interrupt_window` asked for it."""


class ShutdownExit(Exit, reason=lib.KVM_EXIT_SHUTDOWN):
    """A triple fault."""


class FailEntryExit(Exit, reason=lib.KVM_EXIT_FAIL_ENTRY, member="fail_entry"):
    """The processor refused the guest's state."""

    hardware_entry_failure_reason: int
    cpu: int


class InterruptedExit(Exit, reason=lib.KVM_EXIT_INTR):
    """A signal or `immediate_exit` ended KVM_RUN (EINTR)."""


class SetTprExit(Exit, reason=lib.KVM_EXIT_SET_TPR):
    """The guest lowered CR8."""


class TprAccessExit(Exit, reason=lib.KVM_EXIT_TPR_ACCESS, member="tpr_access"):
    """The guest used its APIC's task priority."""

    rip: int
    is_write: int


class NmiExit(Exit, reason=lib.KVM_EXIT_NMI):
    """An NMI of the host."""


class InternalErrorExit(Exit, reason=lib.KVM_EXIT_INTERNAL_ERROR):
    """KVM cannot go on: `suberror` (KVM_INTERNAL_ERROR_*; 1: it cannot emulate `instruction`) and its data words."""

    suberror: int
    data: tuple[int, ...] = ()
    instruction: bytes = b""

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The error, with the instruction's bytes where KVM gives them."""
        internal, failure = run.internal, run.emulation_failure
        data = tuple(internal.data[0 : min(internal.ndata, 16)])
        instruction = b""
        if (
            internal.suberror == lib.KVM_INTERNAL_ERROR_EMULATION
            and data
            and failure.flags & lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
        ):
            instruction = bytes(failure.insn_bytes[0 : min(failure.insn_size, 15)])
        return cls(internal.suberror, data, instruction)


class SystemEventExit(Exit, reason=lib.KVM_EXIT_SYSTEM_EVENT):
    """Shutdown, reset or crash, by KVM_SYSTEM_EVENT_* `type`."""

    type: int
    data: tuple[int, ...] = ()

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The event, with as many data words as KVM gave."""
        event = run.system_event
        return cls(event.type, tuple(event.data[0 : min(event.ndata, 16)]))


class IoapicEoiExit(Exit, reason=lib.KVM_EXIT_IOAPIC_EOI, member="eoi"):
    """End of a level-triggered interrupt, when userspace has the I/O APIC."""

    vector: int


class HypervSynicExit(Exit, reason=lib.KVM_EXIT_HYPERV, member="hyperv.u.synic"):
    """The guest set up Hyper-V's synthetic interrupt controller."""

    msr: int
    control: int
    evt_page: int
    msg_page: int

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The Hyper-V exit of the type that struct kvm_hyperv_exit names."""
        kind = _BY_HYPERV_TYPE.get(run.hyperv.type)
        return kind.of(kind._member(run)) if kind else UnknownExit.decode(run)


class HypervHypercallExit(Exit, reason=lib.KVM_EXIT_HYPERV, member="hyperv.u.hcall"):
    """A Hyper-V hypercall. Answer by `Vcpu.reply` with the result."""

    input: int
    params: tuple[int, ...] = (0, 0)


class HypervSyndbgExit(Exit, reason=lib.KVM_EXIT_HYPERV, member="hyperv.u.syndbg"):
    """Hyper-V's synthetic debugger. Answer by `Vcpu.reply` with the status."""

    msr: int
    control: int
    send_page: int
    recv_page: int
    pending_page: int


_BY_HYPERV_TYPE: dict[int, type[Exit]] = {
    lib.KVM_EXIT_HYPERV_SYNIC: HypervSynicExit,
    lib.KVM_EXIT_HYPERV_HCALL: HypervHypercallExit,
    lib.KVM_EXIT_HYPERV_SYNDBG: HypervSyndbgExit,
}


class _MsrExit(Exit):
    index: int
    cause: int

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The access; `error` and, for a read, `data` await the answer."""
        return cls(run.msr.index, run.msr.reason)


class RdmsrExit(_MsrExit, reason=lib.KVM_EXIT_X86_RDMSR):
    """RDMSR. Answer by `Vcpu.reply` with the value or by `Vcpu.refuse`, which raises #GP."""


class WrmsrExit(_MsrExit, reason=lib.KVM_EXIT_X86_WRMSR):
    """WRMSR of `data`. It succeeds, unless `Vcpu.refuse` makes it raise #GP."""

    data: int

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The access and what is written."""
        return cls(run.msr.index, run.msr.reason, run.msr.data)


class DirtyRingFullExit(Exit, reason=lib.KVM_EXIT_DIRTY_RING_FULL):
    """The dirty ring must be harvested."""


class ApResetHoldExit(Exit, reason=lib.KVM_EXIT_AP_RESET_HOLD):
    """An SEV-ES vCPU waits for its SIPI."""


class BusLockExit(Exit, reason=lib.KVM_EXIT_X86_BUS_LOCK):
    """The guest took a bus lock."""


class XenHypercallExit(Exit, reason=lib.KVM_EXIT_XEN, member="xen.u.hcall"):
    """A Xen hypercall. Answer by `Vcpu.reply` with the result."""

    longmode: int
    cpl: int
    input: int
    params: tuple[int, ...] = (0,) * 6


class NotifyExit(Exit, reason=lib.KVM_EXIT_NOTIFY, member="notify"):
    """No event window for too long; bit 0 of `flags`: the vCPU's state is lost."""

    flags: int


class MemoryFaultExit(Exit, reason=lib.KVM_EXIT_MEMORY_FAULT):
    """Memory of a slot could not be reached (Linux 6.8): `size` bytes at `gpa`. KVM_RUN gave EFAULT or EHWPOISON."""

    flags: int
    gpa: int
    size: int

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The fault."""
        return cls.of(ffi.cast("struct nv_exit_memory_fault *", ffi.addressof(run, "padding")))


class TdxExit(Exit, reason=lib.KVM_EXIT_TDX):
    """A TDX guest's call `nr` (Linux 6.16). Answer by `Vcpu.reply` with its `ret`."""

    flags: int
    nr: int
    data: tuple[int, ...] = (0,) * 5

    @classmethod
    def decode(cls, run: Any) -> Exit:
        """The call."""
        return cls.of(tdx(run))


def decode(run: Any) -> Exit:
    """The exit that a cffi `struct kvm_run *` reports."""
    return _BY_REASON.get(run.exit_reason, UnknownExit).decode(run)


def outcome(run: Any, result: int) -> Exit | None:
    """The exit that KVM_RUN's result, 0 or a negative errno, stands for; None when it failed."""
    if result == -EINTR:
        return InterruptedExit()
    memory_fault = run.exit_reason == lib.KVM_EXIT_MEMORY_FAULT and result in (-EFAULT, -lib.EHWPOISON)
    return decode(run) if result == 0 or memory_fault else None


def port_data(run: Any) -> Any:
    """The data of a port exit where it lies in the vCPU's mapping: size * count bytes, lent until the next run."""
    io = run.io
    return ffi.buffer(ffi.cast("char *", run) + io.data_offset, io.size * io.count)


def tdx(run: Any) -> Any:
    """The union of `run` as a TDX exit, which headers before Linux 6.16 lack."""
    return ffi.cast("struct nv_exit_tdx *", ffi.addressof(run, "padding"))

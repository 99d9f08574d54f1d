"""The structs of the KVM API as Python values, field by field under their names in <linux/kvm.h> and <asm/kvm.h>."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Self

from nestvmm._dispatch import Registers
from nestvmm._native import ffi, lib
from nestvmm.kvm.record import Struct

__all__ = [
    "ClockData",
    "CpuidEntry",
    "DebugRegs",
    "DescriptorTable",
    "ExceptionEvent",
    "Fpu",
    "InterruptEvent",
    "IoapicState",
    "MpState",
    "NestedState",
    "NmiEvent",
    "PicState",
    "PitChannel",
    "PitState",
    "Redirection",
    "Regs",
    "Segment",
    "SmiEvent",
    "Sregs",
    "Translation",
    "TripleFaultEvent",
    "VcpuEvents",
]


class Regs(Registers, Struct, c="struct kvm_regs"):
    """The general registers; 64 bits each. Raises ValueError for a value that does not fit."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2  # bit 1 is always set

    @classmethod
    def of(cls, c: Any) -> Self:
        """Those of a cffi `struct kvm_regs`."""
        return cls.unpack(ffi.buffer(c))

    def fill(self, c: Any) -> Any:
        """Copies them into a cffi `struct kvm_regs` and gives it back."""
        ffi.memmove(c, self.pack(), lib.NV_REGS * 8)
        return c


class Segment(Struct, c="struct kvm_segment"):
    """A segment register with its descriptor cache; `limit` in bytes whatever `g` says."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 0
    dpl: int = 0
    db: int = 0
    s: int = 0
    l: int = 0  # noqa: E741 (the manuals' name)
    g: int = 0
    avl: int = 0
    unusable: int = 0


class DescriptorTable(Struct, c="struct kvm_dtable"):
    """GDTR or IDTR."""

    base: int = 0
    limit: int = 0


class Sregs(Struct, c="struct kvm_sregs"):
    """Segments, control registers, EFER, the APIC's base and the pending external interrupt (one bit per vector)."""

    cs: Segment = Segment()
    ds: Segment = Segment()
    es: Segment = Segment()
    fs: Segment = Segment()
    gs: Segment = Segment()
    ss: Segment = Segment()
    tr: Segment = Segment()
    ldt: Segment = Segment()
    gdt: DescriptorTable = DescriptorTable()
    idt: DescriptorTable = DescriptorTable()
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0
    interrupt_bitmap: bytes = bytes(32)


class Fpu(Struct, c="struct kvm_fpu"):
    """x87 and SSE state: `fpr` is 8 registers of 16 bytes, `xmm` 16 of 16, `ftwx` the tag word in FXSAVE's form.

    KVM ignores `mxcsr` here: it is in the XSAVE area.
    """

    fpr: bytes = bytes(128)
    fcw: int = 0x37F
    fsw: int = 0
    ftwx: int = 0
    last_opcode: int = 0
    last_ip: int = 0
    last_dp: int = 0
    xmm: bytes = bytes(256)
    mxcsr: int = 0x1F80


class DebugRegs(Struct, c="struct kvm_debugregs"):
    """The guest's own debug registers: DR0 to DR3 in `db`."""

    db: tuple[int, ...] = (0, 0, 0, 0)
    dr6: int = 0xFFFF0FF0
    dr7: int = 0x400
    flags: int = 0


class ExceptionEvent(Struct):
    """An exception that is being delivered (injected) or waits (pending)."""

    injected: int = 0
    nr: int = 0
    has_error_code: int = 0
    pending: int = 0
    error_code: int = 0


class InterruptEvent(Struct):
    """An interrupt that is being delivered; `shadow` is 1 after MOV SS, 2 after STI."""

    injected: int = 0
    nr: int = 0
    soft: int = 0
    shadow: int = 0


class NmiEvent(Struct):
    """An NMI that is being delivered or waits, and whether NMIs are masked."""

    injected: int = 0
    pending: int = 0
    masked: int = 0


class SmiEvent(Struct):
    """System management mode."""

    smm: int = 0
    pending: int = 0
    smm_inside_nmi: int = 0
    latched_init: int = 0


class TripleFaultEvent(Struct):
    """A triple fault that waits."""

    pending: int = 0


class VcpuEvents(Struct, c="struct kvm_vcpu_events"):
    """Events in flight (api.rst 4.31); `flags` (KVM_VCPUEVENT_VALID_*) says which optional parts are meant."""

    exception: ExceptionEvent = ExceptionEvent()
    interrupt: InterruptEvent = InterruptEvent()
    nmi: NmiEvent = NmiEvent()
    sipi_vector: int = 0
    flags: int = 0
    smi: SmiEvent = SmiEvent()
    triple_fault: TripleFaultEvent = TripleFaultEvent()
    exception_has_payload: int = 0
    exception_payload: int = 0


class MpState(IntEnum):
    """What a vCPU waits for (api.rst 4.38)."""

    RUNNABLE = 0
    UNINITIALIZED = 1
    INIT_RECEIVED = 2
    HALTED = 3
    SIPI_RECEIVED = 4
    AP_RESET_HOLD = 9


class Translation(Struct, c="struct kvm_translation"):
    """A linear address's physical one; meaningless unless `valid`."""

    linear_address: int = 0
    physical_address: int = 0
    valid: int = 0
    writeable: int = 0
    usermode: int = 0


class CpuidEntry(Struct, c="struct kvm_cpuid_entry2"):
    """What CPUID answers for leaf `function`, and for subleaf `index` when bit 0 of `flags` is set."""

    function: int = 0
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


class NestedState(Struct):
    """Nested virtualization's state (api.rst 4.114): `format` 0 is VMX, 1 SVM; `header` 120 bytes, `data` 0 or more."""

    flags: int = 0
    format: int = 0
    header: bytes = bytes(120)
    data: bytes = b""


class PicState(Struct, c="struct kvm_pic_state"):
    """One 8259A of the in-kernel irqchip."""

    last_irr: int = 0
    irr: int = 0
    imr: int = 0
    isr: int = 0
    priority_add: int = 0
    irq_base: int = 0
    read_reg_select: int = 0
    poll: int = 0
    special_mask: int = 0
    init_state: int = 0
    auto_eoi: int = 0
    rotate_on_auto_eoi: int = 0
    special_fully_nested_mode: int = 0
    init4: int = 0
    elcr: int = 0
    elcr_mask: int = 0


class Redirection(Struct):
    """An I/O APIC redirection entry: `bits` as in its manual."""

    bits: int = 0


class IoapicState(Struct, c="struct kvm_ioapic_state"):
    """The in-kernel I/O APIC."""

    base_address: int = 0xFEC00000
    ioregsel: int = 0
    id: int = 0
    irr: int = 0
    redirtbl: tuple[Redirection, ...] = (Redirection(),) * 24


class PitChannel(Struct):
    """A counter of the 8254; `count_load_time` in ns of the host's monotonic clock."""

    count: int = 0
    latched_count: int = 0
    count_latched: int = 0
    status_latched: int = 0
    status: int = 0
    read_state: int = 0
    write_state: int = 0
    write_latch: int = 0
    rw_mode: int = 0
    mode: int = 0
    bcd: int = 0
    gate: int = 0
    count_load_time: int = 0


class PitState(Struct, c="struct kvm_pit_state2"):
    """The in-kernel 8254."""

    channels: tuple[PitChannel, ...] = (PitChannel(),) * 3
    flags: int = 0


class ClockData(Struct, c="struct kvm_clock_data"):
    """kvmclock in ns; `realtime` (ns since 1970) and `host_tsc` are meant when `flags` has bits 2 and 3."""

    clock: int = 0
    flags: int = 0
    realtime: int = 0
    host_tsc: int = 0

"""Layouts against the ABI (the kernel's arch/x86/include/uapi/asm/kvm.h) and values through C and back."""

from __future__ import annotations

import pytest

from nestvmm._native import ffi
from nestvmm.kvm import (
    ClockData,
    CpuidEntry,
    DebugRegs,
    Fpu,
    IoapicState,
    PicState,
    PitChannel,
    PitState,
    Redirection,
    Regs,
    Segment,
    Sregs,
    VcpuEvents,
)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("kvm_regs", 144),
        ("kvm_segment", 24),
        ("kvm_dtable", 16),
        ("kvm_sregs", 312),
        ("kvm_fpu", 416),
        ("kvm_debugregs", 128),
        ("kvm_vcpu_events", 64),
        ("kvm_msr_entry", 16),
        ("kvm_cpuid_entry2", 40),
        ("kvm_xcrs", 392),
        ("kvm_nested_state", 128),
        ("kvm_guest_debug", 72),
        ("kvm_translation", 24),
        ("kvm_userspace_memory_region", 32),
        ("kvm_dirty_log", 16),
        ("kvm_pic_state", 16),
        ("kvm_ioapic_state", 216),
        ("kvm_irqchip", 520),
        ("kvm_pit_config", 64),
        ("kvm_pit_state2", 112),
        ("kvm_irqfd", 32),
        ("kvm_ioeventfd", 64),
        ("kvm_irq_routing_entry", 48),
        ("kvm_msi", 32),
        ("kvm_msr_filter", 392),
        ("kvm_enable_cap", 104),
        ("kvm_clock_data", 48),
    ],
)
def test_sizes_are_the_abi(name: str, size: int) -> None:
    assert ffi.sizeof(f"struct {name}") == size


def test_kvm_run_is_the_abi() -> None:
    offsets = [ffi.offsetof("struct kvm_run", name) for name in ("immediate_exit", "exit_reason", "cr8", "io", "mmio")]
    assert offsets == [1, 8, 16, 32, 32]
    assert ffi.offsetof("struct kvm_run", "internal", "data", 0) == 40
    assert ffi.sizeof("struct kvm_run") >= 2304


@pytest.mark.parametrize(
    "value",
    [
        Regs(*range(1, 17), 2**64 - 1, 0x202),
        Segment(2**64 - 1, 2**32 - 1, 0xFFFF, *range(1, 10)),
        Sregs(cs=Segment(base=1), ldt=Segment(limit=2), cr0=3, apic_base=4, interrupt_bitmap=bytes(range(32))),
        Fpu(fpr=bytes(range(128)), xmm=bytes(range(256)), mxcsr=0x1FA0),
        DebugRegs((1, 2, 3, 2**64 - 1), 5, 6, 0),
        PicState(*range(16)),
        IoapicState(redirtbl=tuple(Redirection(2**64 - 1 - n) for n in range(24))),
        PitState((PitChannel(count=65536, count_load_time=-1), PitChannel(mode=2), PitChannel(gate=1)), 3),
        ClockData(1, 2, 3, 4),
        CpuidEntry(1, 2, 3, 4, 5, 6, 7),
    ],
)
def test_values_pass_through_c(value) -> None:
    assert type(value).of(value.fill(value.new())) == value


def test_nested_structs_pass_through_c() -> None:
    events = VcpuEvents(flags=2, sipi_vector=0x9F, exception_payload=2**63)
    events.exception.error_code = 0x80000011
    events.triple_fault.pending = 1
    assert VcpuEvents.of(events.fill(VcpuEvents.new())) == events


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Segment(type=256), r"Segment\.type: "),
        (Segment(limit="1"), r"Segment\.limit: a str cannot be stored"),
        (Sregs(interrupt_bitmap=bytes(31)), r"Sregs\.interrupt_bitmap: 31 bytes were given, 32 are needed"),
        (DebugRegs(db=(1, 2, 3)), r"DebugRegs\.db: 3 values were given, 4 are needed"),
        (Sregs(cs=5), r"Sregs\.cs: "),
    ],
)
def test_what_does_not_fit_is_named(value, message) -> None:
    with pytest.raises(ValueError, match=message):
        value.fill(value.new())


def test_a_field_inside_a_field_is_named() -> None:
    sregs = Sregs()
    sregs.tr.dpl = 300
    with pytest.raises(ValueError, match=r"^Segment\.dpl: "):
        sregs.fill(sregs.new())

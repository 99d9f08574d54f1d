"""State of a vCPU that does not run."""

from __future__ import annotations

from errno import EINVAL, ENXIO

import pytest

from nestvmm.kvm import (
    Cap,
    CpuidEntry,
    DebugRegs,
    Fpu,
    Kvm,
    KvmError,
    MpState,
    NestedState,
    Regs,
    Segment,
    Translation,
    Vcpu,
    Vm,
)

pytestmark = pytest.mark.kvm


def test_run_area(vcpu: Vcpu, kvm: Kvm) -> None:
    assert vcpu.run_address % 4096 == 0
    assert vcpu.kvm_run.immediate_exit == 0
    vcpu.immediate_exit = True
    assert vcpu.kvm_run.immediate_exit == 1
    assert vcpu.immediate_exit is True
    assert vcpu.fd > 2
    assert vcpu.check(Cap.NR_MEMSLOTS) == kvm.check(Cap.NR_MEMSLOTS)


def test_regs(vcpu: Vcpu) -> None:
    regs = Regs(*(0x1111111111111111 * n & 2**64 - 1 for n in range(16)), rip=0xFFF0, rflags=0x246)
    vcpu.set_regs(regs)
    assert vcpu.get_regs() == regs


def test_sregs(vcpu: Vcpu) -> None:
    sregs = vcpu.get_sregs()
    assert (sregs.cs.selector, sregs.cs.base, sregs.cr0 & 1) == (0xF000, 0xFFFF0000, 0)
    sregs.ds = Segment(0x12340, 0xFFFF, 0x1234, type=3, present=1, s=1)
    sregs.gdt.base, sregs.gdt.limit = 0x7000, 0x27
    sregs.cr3 = 0x9000
    vcpu.set_sregs(sregs)
    assert vcpu.get_sregs() == sregs


def test_msrs(vcpu: Vcpu) -> None:
    values = {0x174: 0x10, 0x175: 0x123456789000, 0x176: 0xFFFFFFFF81000000}
    vcpu.set_msrs(values)
    assert vcpu.get_msrs(values) == values
    assert vcpu.get_msrs([]) == {}


def test_many_msrs(vcpu: Vcpu) -> None:
    vcpu.set_msrs({0x175: 1})
    assert vcpu.get_msrs([0x175] * 600) == {0x175: 1}


def test_a_refused_msr_is_named(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError) as caught:
        vcpu.get_msrs([0x174, 0x12345678])
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_GET_MSRS", EINVAL)
    assert str(caught.value) == "KVM_GET_MSRS failed: Invalid argument (EINVAL); KVM refuses MSR 0x12345678"
    with pytest.raises(KvmError, match=r"KVM_SET_MSRS failed: .* KVM refuses MSR 0x12345678"):
        vcpu.set_msrs({0x174: 7, 0x12345678: 0})
    assert vcpu.get_msrs([0x174]) == {0x174: 7}


def test_cpuid(vcpu: Vcpu, kvm: Kvm) -> None:
    entries = [CpuidEntry(0, eax=1, ebx=0x11, ecx=0x22, edx=0x33), CpuidEntry(1, eax=0x600F12)]
    vcpu.set_cpuid(entries)
    got = vcpu.get_cpuid()
    assert got[0] == entries[0]
    assert (got[1].function, got[1].eax) == (1, 0x600F12)
    vcpu.set_cpuid(kvm.get_supported_cpuid())
    assert len(vcpu.get_cpuid()) == len(kvm.get_supported_cpuid())


def test_fpu(vcpu: Vcpu) -> None:
    fpu = vcpu.get_fpu()
    assert isinstance(fpu, Fpu)
    fpu.fcw, fpu.xmm = 0x27F, bytes(range(256))
    vcpu.set_fpu(fpu)
    assert vcpu.get_fpu() == fpu


def test_xsave(vcpu: Vcpu) -> None:
    area = vcpu.get_xsave()
    assert len(area) == max(4096, vcpu.check(Cap.XSAVE2))
    changed = bytearray(area)
    changed[0:2] = b"\x7f\x02"  # FCW
    changed[512] |= 1  # XSTATE_BV: x87 state is there
    vcpu.set_xsave(bytes(changed))
    assert vcpu.get_xsave()[0:2] == b"\x7f\x02"
    assert vcpu.get_fpu().fcw == 0x27F
    with pytest.raises(ValueError, match=f"KVM_SET_XSAVE: 5 bytes were given, {len(area)} are needed"):
        vcpu.set_xsave(b"short")


def test_xcrs(vcpu: Vcpu, kvm: Kvm) -> None:
    vcpu.set_cpuid(kvm.get_supported_cpuid())
    assert vcpu.get_xcrs() == {0: 1}
    vcpu.set_xcrs({0: 3})
    assert vcpu.get_xcrs() == {0: 3}
    with pytest.raises(KvmError) as caught:
        vcpu.set_xcrs({0: 2})  # SSE without x87
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_SET_XCRS", EINVAL)
    with pytest.raises(ValueError, match="17 extended control registers: KVM takes at most 16"):
        vcpu.set_xcrs(dict.fromkeys(range(17), 1))


def test_events(vcpu: Vcpu) -> None:
    events = vcpu.get_events()
    assert (events.nmi.masked, events.interrupt.injected) == (0, 0)
    events.nmi.masked = 1
    vcpu.set_events(events)
    assert vcpu.get_events().nmi.masked == 1


def test_nmi_is_queued(vcpu: Vcpu) -> None:
    vcpu.nmi()
    assert vcpu.get_events().nmi.pending == 1


def test_interrupt_is_queued(vcpu: Vcpu) -> None:
    vcpu.interrupt(0x21)
    assert vcpu.get_sregs().interrupt_bitmap == (1 << 0x21).to_bytes(32, "little")
    with pytest.raises(KvmError) as caught:
        vcpu.interrupt(256)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_INTERRUPT", EINVAL)


def test_interrupt_is_not_for_an_irqchip(vm: Vm) -> None:
    vm.create_irqchip()
    with vm.create_vcpu() as vcpu, pytest.raises(KvmError) as caught:
        vcpu.interrupt(0x21)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_INTERRUPT", ENXIO)


def test_debug_regs(vcpu: Vcpu) -> None:
    registers = DebugRegs((0x1000, 0x2000, 0x3000, 0x4000), 0xFFFF0FF1, 0x401, 0)
    vcpu.set_debug_regs(registers)
    assert vcpu.get_debug_regs() == registers


def test_mp_state(vm: Vm) -> None:
    vm.create_irqchip()
    with vm.create_vcpu(0) as boot, vm.create_vcpu(1) as other:
        assert boot.get_mp_state() is MpState.RUNNABLE
        assert other.get_mp_state() is MpState.UNINITIALIZED
        other.set_mp_state(MpState.HALTED)
        assert other.get_mp_state() is MpState.HALTED


def test_lapic(vm: Vm) -> None:
    vm.create_irqchip()
    with vm.create_vcpu(0) as vcpu:
        registers = bytearray(vcpu.get_lapic())
        assert len(registers) == 1024
        registers[0x80:0x84] = b"\x30\0\0\0"  # task priority
        vcpu.set_lapic(bytes(registers))
        assert vcpu.get_lapic()[0x80] == 0x30
        with pytest.raises(ValueError, match="KVM_SET_LAPIC: 1 bytes were given, 1024 are needed"):
            vcpu.set_lapic(b"1")


def test_a_lapic_needs_the_irqchip(vcpu: Vcpu) -> None:
    with pytest.raises(KvmError) as caught:
        vcpu.get_lapic()
    assert (caught.value.ioctl, caught.value.errno, caught.value.capability) == ("KVM_GET_LAPIC", EINVAL, None)


def test_nested_state(vcpu: Vcpu, kvm: Kvm) -> None:
    if not vcpu.check(Cap.NESTED_STATE):
        for use, name in (
            (vcpu.get_nested_state, "KVM_GET_NESTED_STATE"),
            (lambda: vcpu.set_nested_state(NestedState()), "KVM_SET_NESTED_STATE"),
        ):
            with pytest.raises(KvmError) as caught:
                use()
            assert (caught.value.ioctl, caught.value.capability) == (name, Cap.NESTED_STATE)
            assert str(caught.value).endswith("; this host's KVM lacks KVM_CAP_NESTED_STATE")
        return
    vcpu.set_cpuid(kvm.get_supported_cpuid())
    state = vcpu.get_nested_state()
    assert (len(state.header), state.format in (0, 1)) == (120, True)
    vcpu.set_nested_state(state)
    assert vcpu.get_nested_state() == state
    with pytest.raises(KvmError, match=r"KVM_SET_NESTED_STATE failed: .*KVM takes"):
        vcpu.set_nested_state(NestedState(data=bytes(1 << 20)))


def test_a_nested_state_of_the_wrong_form_is_refused(vcpu: Vcpu) -> None:
    with pytest.raises(ValueError, match=r"NestedState\.header has 3 bytes, 120 are needed"):
        vcpu.set_nested_state(NestedState(header=b"abc"))


def test_tsc_frequency(vcpu: Vcpu) -> None:
    khz = vcpu.get_tsc_khz()
    assert khz > 100000
    vcpu.set_tsc_khz(khz)
    assert vcpu.get_tsc_khz() == khz


def test_translate_without_paging(vcpu: Vcpu) -> None:
    assert vcpu.translate(0x1234) == Translation(0x1234, 0x1234, 1, 1, 0)


def test_translate_walks_the_guest_page_tables(guest) -> None:
    machine = guest("f4")
    machine.enter_long_mode()
    machine.memory.write(0x6008, (0x87).to_bytes(8, "little"))  # the second 2 MiB are the first ones again
    found = machine.vcpu.translate(0x201234)
    assert (found.valid, found.physical_address) == (1, 0x1234)
    assert machine.vcpu.translate(0x400000).valid == 0


def test_enable_cap_of_a_vcpu_names_what_is_missing(vcpu: Vcpu) -> None:
    missing = next(cap for cap in (Cap.HYPERV_SYNIC, Cap.HYPERV_ENLIGHTENED_VMCS, Cap.XEN_HVM) if not vcpu.check(cap))
    with pytest.raises(KvmError) as caught:
        vcpu.enable_cap(missing)
    assert (caught.value.ioctl, caught.value.errno, caught.value.capability) == ("KVM_ENABLE_CAP", EINVAL, missing)

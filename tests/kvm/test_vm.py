from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from errno import EEXIST, EINVAL, ENOENT, ENXIO

import pytest
from patience import PATIENCE

from nestvmm.kvm import (
    IOAPIC,
    PIC_MASTER,
    PIC_SLAVE,
    Cap,
    ClockData,
    HltExit,
    HostMemory,
    IoapicState,
    IoExit,
    IrqchipRoute,
    KvmError,
    MmioExit,
    MsiRoute,
    PicState,
    Vcpu,
    Vm,
)

pytestmark = pytest.mark.kvm


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether it comes true soon: irqfds are served by a worker of the kernel."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def test_capabilities_of_a_vm(vm: Vm) -> None:
    assert vm.check(Cap.IRQCHIP) == 1
    assert vm.check(100000) == 0


# memory


def test_memory_regions_can_be_made_changed_and_deleted(vm: Vm) -> None:
    with HostMemory(0x4000) as memory:
        vm.set_memory_region(3, 0x100000, 0x4000, memory.address)
        with pytest.raises(KvmError) as caught:
            vm.set_memory_region(4, 0x103000, 0x1000, memory.address)  # overlaps
        assert (caught.value.ioctl, caught.value.errno) == ("KVM_SET_USER_MEMORY_REGION", EEXIST)
        vm.delete_memory_region(3)
        vm.set_memory_region(4, 0x103000, 0x1000, memory.address)
        vm.delete_memory_region(4)


@pytest.mark.parametrize(("address", "size"), [(0x800, 0x1000), (0, 0x800)])
def test_an_unaligned_region_is_refused(vm: Vm, address: int, size: int) -> None:
    with HostMemory(0x1000) as memory, pytest.raises(KvmError) as caught:
        vm.set_memory_region(0, address, size, memory.address)
    assert str(caught.value) == "KVM_SET_USER_MEMORY_REGION failed: Invalid argument (EINVAL)"


def test_deleting_what_is_not_there_is_an_error(vm: Vm) -> None:
    with pytest.raises(KvmError) as caught:
        vm.delete_memory_region(0)
    assert caught.value.errno == EINVAL


def test_the_dirty_log_names_the_written_pages(guest) -> None:
    machine = guest("a2 34 92 a2 00 30 f4")  # mov [0x9234], al; mov [0x3000], al; hlt
    with HostMemory(0x10000) as memory:
        machine.vm.delete_memory_region(0)
        memory.write(0x1000, machine.memory.read(0x1000, 7))
        machine.vm.set_memory_region(0, 0, 0x10000, memory.address, log_dirty=True)
        machine.vm.get_dirty_log(0)
        assert machine.vcpu.run() == HltExit()
        assert machine.vm.get_dirty_log(0) == [3, 9]
        assert machine.vm.get_dirty_log(0) == []


def test_a_dirty_log_needs_a_slot_that_logs(vm: Vm) -> None:
    with pytest.raises(ValueError, match="memory slot 5 is not set"):
        vm.get_dirty_log(5)
    with HostMemory(0x1000) as memory:
        vm.set_memory_region(5, 0, 0x1000, memory.address)
        with pytest.raises(KvmError) as caught:
            vm.get_dirty_log(5)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_GET_DIRTY_LOG", ENOENT)


def test_a_write_to_a_readonly_region_exits_and_a_read_does_not(guest) -> None:
    machine = guest("a0 00 80 a2 01 80 f4")  # mov al, [0x8000]; mov [0x8001], al; hlt
    with HostMemory(0x1000) as rom:
        rom.write(0, b"\x5a\x11")
        machine.vm.delete_memory_region(0)
        machine.vm.set_memory_region(0, 0, 0x8000, machine.memory.address)
        machine.vm.set_memory_region(1, 0x8000, 0x1000, rom.address, readonly=True)
        assert machine.vcpu.run() == MmioExit(True, 0x8001, 1, b"\x5a")
        assert machine.vcpu.run() == HltExit()
        assert rom.read(0, 2) == b"\x5a\x11"


# interrupts


def test_irqchip_states_pass_through_kvm(vm: Vm) -> None:
    vm.create_irqchip()
    for chip in (PIC_MASTER, PIC_SLAVE):
        state = vm.get_irqchip(chip)
        assert isinstance(state, PicState)
        state.irq_base, state.imr = 0x20 + 8 * chip, 0xA0 + chip
        vm.set_irqchip(chip, state)
        assert vm.get_irqchip(chip) == state
    state = vm.get_irqchip(IOAPIC)
    assert isinstance(state, IoapicState)
    assert state.base_address == 0xFEC00000
    state.redirtbl[23].bits = 0x0100000000010045
    vm.set_irqchip(IOAPIC, state)
    assert vm.get_irqchip(IOAPIC) == state


def test_a_wrong_interrupt_controller_is_named(vm: Vm) -> None:
    vm.create_irqchip()
    with pytest.raises(ValueError, match="3 is no interrupt controller"):
        vm.get_irqchip(3)
    with pytest.raises(ValueError, match="interrupt controller 2 needs a IoapicState, not a PicState"):
        vm.set_irqchip(IOAPIC, PicState())


def test_a_second_irqchip_is_an_error(vm: Vm) -> None:
    vm.create_irqchip()
    with pytest.raises(KvmError) as caught:
        vm.create_irqchip()
    assert (caught.value.ioctl, caught.value.errno, caught.value.capability) == ("KVM_CREATE_IRQCHIP", EEXIST, None)


def test_an_irqchip_that_is_not_there_is_an_error(vm: Vm) -> None:
    with pytest.raises(KvmError) as caught:
        vm.get_irqchip(PIC_MASTER)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_GET_IRQCHIP", ENXIO)
    with pytest.raises(KvmError, match="KVM_IRQ_LINE failed"):
        vm.irq_line(4, True)


def pending(vm: Vm, pin: int) -> bool:
    state = vm.get_irqchip(PIC_MASTER)
    assert isinstance(state, PicState)
    return bool(state.irr >> pin & 1)


def test_irq_line(vm: Vm) -> None:
    vm.create_irqchip()
    assert not pending(vm, 4)
    vm.irq_line(4, True)
    assert pending(vm, 4)


def test_irqfd_raises_its_line_until_it_is_taken_back(vm: Vm) -> None:
    vm.create_irqchip()
    fd = os.eventfd(0)
    vm.irqfd(fd, 5)
    os.eventfd_write(fd, 1)
    assert wait_for(lambda: pending(vm, 5))
    vm.irqfd(fd, 5, deassign=True)
    os.eventfd_write(fd, 1)
    assert os.eventfd_read(fd) == 1
    os.close(fd)


def test_irqfd_with_resample(vm: Vm) -> None:
    vm.create_irqchip()
    fd, resample = os.eventfd(0), os.eventfd(0)
    vm.irqfd(fd, 10, resample_fd=resample)
    vm.irqfd(fd, 10, deassign=True)
    with pytest.raises(KvmError) as caught:
        vm.irqfd(0, 10, resample_fd=resample)  # not an eventfd
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_IRQFD", EINVAL)
    os.close(fd)
    os.close(resample)


def test_gsi_routing_moves_a_line(vm: Vm) -> None:
    vm.create_irqchip()
    vm.set_gsi_routing([IrqchipRoute(40, PIC_MASTER, 6), MsiRoute(41, 0xFEE00000, 0x31)])
    vm.irq_line(40, True)
    assert pending(vm, 6)
    with pytest.raises(KvmError) as caught:
        vm.set_gsi_routing([IrqchipRoute(40, 9, 6)])
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_SET_GSI_ROUTING", EINVAL)


def enabled_lapic(vcpu: Vcpu) -> None:
    registers = bytearray(vcpu.get_lapic())
    registers[0xF0:0xF4] = (0x1FF).to_bytes(4, "little")  # spurious vector register: software enable
    vcpu.set_lapic(bytes(registers))


def test_signal_msi_reaches_the_local_apic(vm: Vm) -> None:
    vm.create_irqchip()
    with vm.create_vcpu() as vcpu:
        enabled_lapic(vcpu)
        assert vm.signal_msi(0xFEE00000, 0x45) == 1
        assert vcpu.get_lapic()[0x220] == 1 << 5  # vector 0x45 requested
        assert vm.signal_msi(0xFEE0F000, 0x46) == 0  # no vCPU 15


def test_ioeventfd_takes_port_writes(guest) -> None:
    machine = guest("b007 e610 e611 b008 e610 f4")  # 7 to ports 0x10 and 0x11, 8 to 0x10; hlt
    fd = os.eventfd(0)
    machine.vm.ioeventfd(fd, 0x10, 1, pio=True, datamatch=7)
    assert machine.vcpu.run() == IoExit(True, 0x11, 1, 1, b"\x07")
    assert os.eventfd_read(fd) == 1
    assert machine.vcpu.run() == IoExit(True, 0x10, 1, 1, b"\x08")
    machine.vm.ioeventfd(fd, 0x10, 1, pio=True, datamatch=7, deassign=True)
    assert machine.vcpu.run() == HltExit()
    assert select.select([fd], [], [], 0)[0] == []
    os.close(fd)


def test_ioeventfd_takes_memory_writes(guest) -> None:
    machine = guest("b8 00 20 8e d8 a2 00 00 f4")  # ds = 0x2000; mov [0x20000], al; hlt
    fd = os.eventfd(0)
    machine.vm.ioeventfd(fd, 0x20000, 1)
    assert machine.vcpu.run() == HltExit()
    assert os.eventfd_read(fd) == 1
    with pytest.raises(KvmError) as caught:
        machine.vm.ioeventfd(fd, 0x20000, 1)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_IOEVENTFD", EEXIST)
    os.close(fd)


# timers


def test_pit_state_passes_through_kvm(vm: Vm) -> None:
    vm.create_irqchip()
    vm.create_pit2(speaker=True)
    state = vm.get_pit2()
    assert len(state.channels) == 3
    state.channels[1].count, state.channels[1].mode = 0x1234, 3
    vm.set_pit2(state)
    got = vm.get_pit2()
    assert (got.channels[1].count, got.channels[1].mode) == (0x1234, 3)


def test_a_pit_needs_the_irqchip(vm: Vm) -> None:
    with pytest.raises(KvmError, match=r"KVM_CREATE_PIT2 failed: No such file or directory \(ENOENT\)"):
        vm.create_pit2()


def test_the_clock_runs_from_where_it_is_set(vm: Vm) -> None:
    vm.set_clock(ClockData(clock=10**15))
    clock = vm.get_clock().clock
    assert 10**15 <= clock < 10**15 + 10**10


def test_tsc_frequency_of_a_vm(vm: Vm) -> None:
    khz = vm.get_tsc_khz()
    assert khz > 100000
    vm.set_tsc_khz(khz)
    with vm.create_vcpu() as vcpu:
        assert vcpu.get_tsc_khz() == khz


# the whole VM


def test_fixed_addresses(vm: Vm) -> None:
    vm.set_tss_address(0xFFFBD000)
    vm.set_identity_map_address(0xFFFBC000)
    with vm.create_vcpu(), pytest.raises(KvmError) as caught:
        vm.set_identity_map_address(0xFFFBC000)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_SET_IDENTITY_MAP_ADDR", EINVAL)


def test_enable_cap(vm: Vm) -> None:
    vm.enable_cap(Cap.X86_USER_SPACE_MSR, 2)
    with pytest.raises(KvmError) as caught:
        vm.enable_cap(Cap.X86_USER_SPACE_MSR, 1 << 40)
    assert (caught.value.ioctl, caught.value.errno, caught.value.capability) == ("KVM_ENABLE_CAP", EINVAL, None)


def test_enabling_what_is_missing_names_it(vm: Vm) -> None:
    missing = next(cap for cap in (Cap.XEN_HVM, Cap.SGX_ATTRIBUTE, Cap.PMU_CAPABILITY, Cap.HYPERV) if not vm.check(cap))
    with pytest.raises(KvmError) as caught:
        vm.enable_cap(missing)
    assert caught.value.capability == missing
    assert f"lacks KVM_CAP_{missing.name}" in str(caught.value)


def test_a_vcpu_id_is_used_once(vm: Vm) -> None:
    with vm.create_vcpu(1), pytest.raises(KvmError) as caught:
        vm.create_vcpu(1)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_CREATE_VCPU", EEXIST)


def test_vm_statistics(vm: Vm) -> None:
    with vm.stats() as stats:
        assert stats.id == f"kvm-{os.getpid()}"
        assert stats.header.num_desc == len(stats.descriptors)
        values = stats.read()
        assert set(values) == {descriptor.name for descriptor in stats.descriptors}
        assert "remote_tlb_flush" in values

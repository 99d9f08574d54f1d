"""The serial port drives its line of KVM's in-kernel irqchip."""

import fcntl
import os
from collections.abc import Iterator

import pytest
from port_access import read, write

from nestvmm.devices import Uart

KVM_CREATE_VM = 0xAE01
KVM_CREATE_IRQCHIP = 0xAE60
KVM_GET_IRQCHIP = 0xC208AE62
PIC_MASTER = 0
IRQ = 4


@pytest.fixture
def vm() -> Iterator[int]:
    kvm = os.open("/dev/kvm", os.O_RDWR)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    fcntl.ioctl(vm, KVM_CREATE_IRQCHIP, 0)
    yield vm
    os.close(vm)
    os.close(kvm)


def line_seen(vm: int) -> int:
    """The level that the PIC saw last: kvm_pic_state's last_irr, the first byte behind the chip's id."""
    chip = bytearray(520)
    chip[0] = PIC_MASTER
    fcntl.ioctl(vm, KVM_GET_IRQCHIP, chip)
    return chip[8] >> IRQ & 1


@pytest.mark.kvm
def test_the_interrupt_reaches_the_irqchip(vm: int) -> None:
    with Uart(-1, vm, IRQ) as uart:
        assert line_seen(vm) == 0
        write(uart, 1, 0x01)
        assert line_seen(vm) == 0
        uart.receive(b"a")
        assert (uart.line, line_seen(vm)) == (1, 1)
        assert read(uart, 0) == ord("a")
        assert (uart.line, line_seen(vm)) == (0, 0)
        write(uart, 1, 0x02)
        assert line_seen(vm) == 1
        assert read(uart, 2) == 0x02
        assert line_seen(vm) == 0

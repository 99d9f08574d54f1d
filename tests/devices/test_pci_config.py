"""PCI configuration mechanism #1 on an empty bus, and the reset control register."""

import pytest
from port_access import answer_write, read, read_string, write

from nestvmm.devices.pci_config import PciConfig
from nestvmm.x86.event import Result


def test_address_reads_back_what_was_written() -> None:
    device = PciConfig()
    assert read(device, 0, 4) == 0
    write(device, 0, 0x8000FFFC, 4)
    assert read(device, 0, 4) == 0x8000FFFC


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 2), (2, 1), (3, 1), (1, 2), (2, 2), (1, 4)])
def test_narrow_accesses_miss_the_address(offset: int, size: int) -> None:
    device = PciConfig()
    write(device, 0, 0x80000000, 4)
    write(device, offset, 0, size)
    assert read(device, 0, 4) == 0x80000000
    assert read(device, offset, size) == (1 << 8 * size) - 1


@pytest.mark.parametrize(("offset", "size"), [(4, 4), (4, 2), (6, 2), (7, 1), (7, 4)])
def test_no_device_is_there(offset: int, size: int) -> None:
    device = PciConfig()
    write(device, offset, 0, size)
    assert read_string(device, offset, 3, size) == b"\xff" * 3 * size


def test_reset_control_keeps_the_kind_of_reset() -> None:
    device = PciConfig()
    assert read(device, 1) == 0
    write(device, 1, 0xFB)
    assert read(device, 1) == 0x02


@pytest.mark.parametrize("value", [0x04, 0x06, 0x0E, 0xFF])
def test_reset_control_resets(value: int) -> None:
    expected = Result.stopped(0, "the guest reset the machine through its reset control register")
    assert answer_write(PciConfig(), 1, bytes([value])) == expected
    assert answer_write(PciConfig(), 1, bytes([0x02, value])) == expected
    assert answer_write(PciConfig(), 0, bytes([value, value, 0, 0]), 4) == Result.handled()

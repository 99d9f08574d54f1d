"""CONFIG_ADDRESS of PCI configuration mechanism #1, in C."""

import pytest
from port_access import read, read_string, write

from nestvmm.devices.pci_address import PciAddress


def test_address_reads_back_what_was_written() -> None:
    address = PciAddress()
    assert read(address, 0, 4) == 0
    write(address, 0, 0x8000FFFC, 4)
    assert read(address, 0, 4) == 0x8000FFFC
    assert read_string(address, 0, 2, 4) == bytes.fromhex("fcff0080" * 2)


@pytest.mark.parametrize("size", [1, 2])
def test_narrow_accesses_miss_the_address(size: int) -> None:
    address = PciAddress()
    write(address, 0, 0x80000000, 4)
    write(address, 0, 0, size)
    assert read(address, 0, size) == (1 << 8 * size) - 1
    assert read(address, 0, 4) == 0x80000000

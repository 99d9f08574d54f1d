"""The address register of PCI configuration mechanism #1: native/pci_address.c, for Python.

Linux scans 256 buses through it, some 34,000 accesses; none of them needs Python. Where no device is, CONFIG_DATA reads
as all ones, which `Ignore` does.
"""

from __future__ import annotations

from nestvmm._native import ffi
from nestvmm.devices.native import NativeDevice

__all__ = ["PciAddress"]


class PciAddress(NativeDevice):
    """CONFIG_ADDRESS: reads back what was written, by which a guest detects the mechanism."""

    name = "PCI address"

    def __init__(self) -> None:
        super().__init__("nv_pci_address_serve", ffi.new("struct nv_pci_address *"))

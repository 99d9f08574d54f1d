"""Every fixed address, port and interrupt line of the machine that L0 offers, in one place.

Port numbers are those of the PC and of QEMU's pc machine; addresses are guest-physical, in bytes.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "IDENTITY_MAP",
    "IRQ_COM1",
    "PORT_CMOS",
    "PORT_COM1",
    "PORT_DEBUGCON",
    "PORT_DEBUG_EXIT",
    "PORT_FW_CFG",
    "PORT_I8042_COMMAND",
    "PORT_I8042_DATA",
    "PORT_PCI_ADDRESS",
    "PORT_PCI_DATA",
    "PORT_PM_TIMER",
    "PORT_POST",
    "PORT_RESET_CONTROL",
    "RAM_ABOVE_4G",
    "RAM_BELOW_4G_MAX",
    "TSS",
]

# Ports: first one, and how many.
PORT_I8042_DATA: Final = (0x60, 1)
PORT_I8042_COMMAND: Final = (0x64, 1)
PORT_CMOS: Final = (0x70, 2)
PORT_POST: Final = (0x80, 1)
PORT_DEBUGCON: Final = (0xE9, 1)
PORT_DEBUG_EXIT: Final = (0xF4, 4)
PORT_COM1: Final = (0x3F8, 8)
PORT_FW_CFG: Final = (0x510, 2)
PORT_PM_TIMER: Final = (0x608, 4)
PORT_PCI_ADDRESS: Final = (0xCF8, 1)
PORT_RESET_CONTROL: Final = (0xCF9, 1)
PORT_PCI_DATA: Final = (0xCFC, 4)

IRQ_COM1: Final = 4

# What KVM itself occupies, below the 4 GiB boundary (KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR).
IDENTITY_MAP: Final = 0xFFFBC000
TSS: Final = 0xFFFBD000

# RAM that would reach into the devices' addresses below 4 GiB goes above them instead, as on QEMU's pc machine.
RAM_BELOW_4G_MAX: Final = 0xC0000000
RAM_ABOVE_4G: Final = 0x100000000

"""What L0 offers a guest: small devices that see offsets, a bus that places them, and the machine they make.

    device       the Device protocol, and bases for devices in Python        native      the base for devices in C
    uart debugcon ignore pci_address                            served by C, without entering Python
    debug_exit i8042 reset_control reset cmos pm_timer fw_cfg      served by Python
    mp_table     what firmware says of processor and I/O APIC
    bus          ports to devices                                            platform    the whole machine

Python hypervisors use the same devices for their guests.
"""

from nestvmm.devices.bus import Bus, Claim
from nestvmm.devices.debugcon import DebugConsole
from nestvmm.devices.device import ByteDevice, Device, RegisterDevice, Server
from nestvmm.devices.mp_table import MP_TABLE_ADDRESS, mp_table
from nestvmm.devices.platform import Platform, platform
from nestvmm.devices.uart import Uart

__all__ = [
    "MP_TABLE_ADDRESS",
    "Bus",
    "ByteDevice",
    "Claim",
    "DebugConsole",
    "Device",
    "Platform",
    "RegisterDevice",
    "Server",
    "Uart",
    "mp_table",
    "platform",
]

"""PCI configuration mechanism #1 with an empty bus, and the reset control register that lies inside its ports.

PCI Local Bus Specification 3.0, 3.2.2.3.2; Intel 82371SB (PIIX3) data sheet, 2.5.4.6 for the reset control register.
"""

from __future__ import annotations

from typing import Final

from nestvmm.devices.device import RegisterDevice, all_ones
from nestvmm.devices.reset import reset
from nestvmm.x86.event import HANDLED, Result

__all__ = ["PciConfig"]

ADDRESS: Final = 0
RESET_CONTROL: Final = 1

HARD: Final = 0x02
RESET: Final = 0x04


class PciConfig(RegisterDevice):
    """CONFIG_ADDRESS at offset 0, CONFIG_DATA at 4 to 7: all ones, which says that no device is there.

    CONFIG_ADDRESS exists for 4-byte accesses only. A byte at offset 1 is the reset control register: bit 2 resets.
    """

    name = "PCI configuration"

    def __init__(self) -> None:
        self._address = 0
        self._reset_control = 0

    def read(self, offset: int, size: int) -> int:
        """What was written to the two registers; all ones elsewhere."""
        if (offset, size) == (ADDRESS, 4):
            return self._address
        if (offset, size) == (RESET_CONTROL, 1):
            return self._reset_control
        return all_ones(size)

    def write(self, offset: int, size: int, value: int) -> Result:
        """Write one of the two registers, or nothing."""
        if (offset, size) == (ADDRESS, 4):
            self._address = value
        elif (offset, size) == (RESET_CONTROL, 1):
            if value & RESET:
                return reset("reset control register")
            self._reset_control = value & HARD
        return HANDLED

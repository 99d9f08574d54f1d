"""The reset control register, port 0xcf9: Intel 82371SB (PIIX3) data sheet, 2.5.4.6."""

from __future__ import annotations

from typing import Final

from nestvmm.devices.device import ByteDevice
from nestvmm.devices.reset import reset
from nestvmm.x86.event import HANDLED, Result

__all__ = ["ResetControl"]

HARD: Final = 0x02
RESET: Final = 0x04


class ResetControl(ByteDevice):
    """One byte: bit 2 resets, bit 1 says how and reads back."""

    name = "reset control"

    def __init__(self) -> None:
        self._kind = 0

    def read_byte(self, offset: int) -> int:
        """The kind of reset that was chosen."""
        return self._kind if offset == 0 else 0xFF

    def write_byte(self, offset: int, value: int) -> Result:
        """Choose the kind, or reset."""
        if offset == 0:
            if value & RESET:
                return reset("reset control register")
            self._kind = value & HARD
        return HANDLED

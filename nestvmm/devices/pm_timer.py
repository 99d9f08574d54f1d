"""The ACPI power-management timer: ACPI specification 6.4, 4.8.3.3."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from nestvmm.devices.device import RegisterDevice, all_ones

__all__ = ["PmTimer"]

FREQUENCY_HZ: Final = 3_579_545
BITS: Final = 24


class PmTimer(RegisterDevice):
    """A 24-bit counter at 3.579545 MHz, at offsets 0 to 3; the bits above it read 0, writes are dropped.

    clock:  nanoseconds from any start, never backwards; CLOCK_MONOTONIC unless told
    """

    name = "PM timer"

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock

    def read(self, offset: int, size: int) -> int:
        """The counter now, from byte `offset` on."""
        count = self._clock() * FREQUENCY_HZ // 1_000_000_000 & (1 << BITS) - 1
        return count >> 8 * offset & all_ones(size)

"""The real-time clock and its CMOS memory: Motorola MC146818 data sheet.

What a PC's firmware leaves in the memory is as on QEMU's pc machine (hw/i386/pc.c, pc_cmos_init).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from nestvmm.devices.device import ByteDevice
from nestvmm.x86.event import HANDLED, Result
from nestvmm.x86.layout import RAM_BELOW_4G_MAX

__all__ = ["Cmos"]

INDEX: Final = 0
DATA: Final = 1
SIZE: Final = 128

REGISTER_A: Final = 0x0A
REGISTER_B: Final = 0x0B
REGISTER_C: Final = 0x0C
REGISTER_D: Final = 0x0D
EQUIPMENT: Final = 0x14
BASE_MEMORY: Final = 0x15
EXTENDED_MEMORY: Final = 0x17
EXTENDED_MEMORY_COPY: Final = 0x30
CENTURY: Final = 0x32
MEMORY_ABOVE_16M: Final = 0x34
MEMORY_ABOVE_4G: Final = 0x5B

UPDATE_IN_PROGRESS: Final = 0x80
DIVIDER_32768_HZ: Final = 0x26
SET: Final = 0x80
BINARY: Final = 0x04
HOURS_24: Final = 0x02
PM: Final = 0x80
VALID: Final = 0x80
FPU: Final = 0x02

UPDATE_NOTICE_NS: Final = 244_000

KIB: Final = 1 << 10
MIB: Final = 1 << 20


class Cmos(ByteDevice):
    """Index at offset 0 (write only), data at offset 1: a clock that guests can read but not set, and 128 bytes in all.

    ram:    guest RAM in bytes
    clock:  nanoseconds since 1970 UTC; CLOCK_REALTIME unless told

    The clock is BCD and 24 hours unless the guest changes register B. There is no interrupt: its enable bits and
    register C read 0.
    """

    name = "CMOS"

    def __init__(self, ram: int, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._index = 0
        self._memory = bytearray(SIZE)
        self._memory[REGISTER_A] = DIVIDER_32768_HZ
        self._memory[REGISTER_B] = HOURS_24
        self._memory[REGISTER_D] = VALID
        self._memory[EQUIPMENT] = FPU
        below_4g = min(ram, RAM_BELOW_4G_MAX)
        extended = min(max(below_4g - MIB, 0) // KIB, 0xFFFF)
        self._store(BASE_MEMORY, 2, min(ram // KIB, 640))
        self._store(EXTENDED_MEMORY, 2, extended)
        self._store(EXTENDED_MEMORY_COPY, 2, extended)
        self._store(MEMORY_ABOVE_16M, 2, min(max(below_4g - 16 * MIB, 0) // (64 * KIB), 0xFFFF))
        self._store(MEMORY_ABOVE_4G, 3, min((ram - below_4g) // (64 * KIB), 0xFFFFFF))

    def _store(self, index: int, size: int, value: int) -> None:
        self._memory[index : index + size] = value.to_bytes(size, "little")

    def read_byte(self, offset: int) -> int:
        """The register that the index names."""
        if offset != DATA:
            return super().read_byte(offset)
        if self._index in _FIELDS:
            return self._read_clock(self._index)
        value = self._memory[self._index]
        if self._index == REGISTER_A and self._updating():
            value |= UPDATE_IN_PROGRESS
        return value

    def write_byte(self, offset: int, value: int) -> Result:
        """Set the index, or the memory that it names."""
        if offset == INDEX:
            # bit 7 masks a PC's NMI
            self._index = value % SIZE
        elif offset == DATA:
            if self._index == REGISTER_A:
                value &= ~UPDATE_IN_PROGRESS
            elif self._index == REGISTER_B:
                value &= SET | BINARY | HOURS_24
            if self._index not in {REGISTER_C, REGISTER_D}:
                self._memory[self._index] = value
        return HANDLED

    def _updating(self) -> bool:
        """Whether the next second is less than 244 us away: who reads 0 has that long to read one consistent time."""
        stopped = self._memory[REGISTER_B] & SET
        return not stopped and self._clock() % 1_000_000_000 >= 1_000_000_000 - UPDATE_NOTICE_NS

    def _read_clock(self, index: int) -> int:
        control = self._memory[REGISTER_B]
        value = _FIELDS[index](datetime.fromtimestamp(self._clock() // 1_000_000_000, UTC))
        pm = 0
        if index == HOURS and not control & HOURS_24:
            pm = PM if value >= 12 else 0
            value = value % 12 or 12
        return pm | (value if control & BINARY else value // 10 << 4 | value % 10)


HOURS: Final = 0x04

# The time registers; the alarm's at 1, 3 and 5 are memory like any other.
_FIELDS: Final[dict[int, Callable[[datetime], int]]] = {
    0x00: lambda now: now.second,
    0x02: lambda now: now.minute,
    HOURS: lambda now: now.hour,
    0x06: lambda now: now.isoweekday() % 7 + 1,
    0x07: lambda now: now.day,
    0x08: lambda now: now.month,
    0x09: lambda now: now.year % 100,
    CENTURY: lambda now: now.year // 100,
}

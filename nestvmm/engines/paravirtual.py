"""KVM's own MSRs that name memory for KVM to write: the clock, asynchronous faults, stolen time, EOI (msr.rst).

KVM takes their addresses for its own guest's. Where level n's addresses are not KVM's, the engine must carry them over,
or level n could have KVM write anywhere. Hyper-V's MSRs do that too; level n's CPUID offers none, so they are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nestvmm.engines.engine import MsrRange

__all__ = ["ADDRESS_MSRS", "HYPERV_MSRS", "TRAPPED", "carry"]

#: MSR: the bits below its address, and the bytes that KVM may write there.
ADDRESS_MSRS: Final = {
    0x11: (0, 12),  # wall clock
    0x12: (1, 32),  # system time
    0x4B564D00: (0, 12),
    0x4B564D01: (1, 32),
    0x4B564D02: (0x3F, 64),  # asynchronous page faults
    0x4B564D03: (0x3F, 64),  # stolen time
    0x4B564D04: (3, 4),  # end of interrupt
}
HYPERV_MSRS: Final = (0x40000000, 0x400001FF)

TRAPPED: Final = (
    *(MsrRange(index, index, read=True, write=True) for index in ADDRESS_MSRS),
    MsrRange(*HYPERV_MSRS, read=False, write=True),
)


def carry(index: int, value: int, to: Callable[[int, int], int | None]) -> int | None:
    """The MSR's value for KVM; None: it names no memory that level n may write as a whole.

    to:  KVM's address of level n's (address, size), or None
    """
    flags, size = ADDRESS_MSRS[index]
    # the wall clock has no bit 0 for on and off: it is written once, at once
    if flags and not value & 1:
        return value & flags
    address = to(value & ~flags, size)
    return None if address is None else address | value & flags

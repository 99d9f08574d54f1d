"""The memory map that a PC's firmware reports (e820), made from the guest's RAM.

As QEMU's pc machine has it: the last KiB below 640 KiB is the extended BIOS data area, and from there to 1 MiB video
memory and BIOS hide the RAM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from nestvmm.loaders.image import MemoryRange
from nestvmm.x86.layout import IDENTITY_MAP

__all__ = ["HIDDEN", "HIGH_MEMORY", "RESERVED", "USABLE", "Region", "lower_and_upper", "memory_map"]

USABLE: Final = 1
RESERVED: Final = 2

HIGH_MEMORY: Final = 0x100000
_EBDA: Final = MemoryRange(0x9FC00, 0x400)
_BIOS: Final = MemoryRange(0xF0000, 0x10000)
_KVM: Final = MemoryRange(IDENTITY_MAP, (1 << 32) - IDENTITY_MAP)
HIDDEN: Final = MemoryRange(_EBDA.start, HIGH_MEMORY - _EBDA.start)


class Region(NamedTuple):
    """One e820 entry: address, size in bytes, USABLE or RESERVED."""

    start: int
    size: int
    type: int


def memory_map(ram: Sequence[MemoryRange]) -> list[Region]:
    """The e820 entries of this RAM (sorted, disjoint), in order of address."""
    regions = [Region(reserved.start, reserved.size, RESERVED) for reserved in (_EBDA, _BIOS, _KVM)]
    for piece in ram:
        start = piece.start
        for hidden in (HIDDEN, _KVM):
            if start < min(hidden.start, piece.end):
                regions.append(Region(start, min(hidden.start, piece.end) - start, USABLE))
            start = max(start, hidden.end)
        if start < piece.end:
            regions.append(Region(start, piece.end - start, USABLE))
    return sorted(regions)


def lower_and_upper(regions: Sequence[Region]) -> tuple[int, int]:
    """KiB of RAM from address 0 (at most 639) and from 1 MiB up to a hole: Multiboot's mem_lower and mem_upper."""
    sizes = {region.start: region.size for region in regions if region.type == USABLE}
    return sizes.get(0, 0) // 1024, sizes.get(HIGH_MEMORY, 0) // 1024

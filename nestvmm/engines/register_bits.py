"""The bits of CR4 and EFER that a processor with this CPUID has; it refuses all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nestvmm.kvm import CpuidEntry

__all__ = ["cr4_bits", "efer_bits"]

_EXTENDED: Final = 0x80000001

# EFER's bits SCE, LME, NXE and FFXSR, each with its CPUID bit in EDX of 0x80000001 (AMD APM vol. 2, 3.1.7).
_EFER_BITS: Final = ((1 << 0, 1 << 11), (1 << 8, 1 << 29), (1 << 11, 1 << 20), (1 << 14, 1 << 25))

# CR4's bits that every such processor has, and those that come with a CPUID bit: leaf, register, bit (AMD APM vol. 2,
# 3.1.3).
_CR4: Final = 0x7FF
_CR4_BITS: Final = {
    11: (7, "ecx", 2),
    12: (7, "ecx", 16),
    16: (7, "ebx", 0),
    17: (1, "ecx", 17),
    18: (1, "ecx", 26),
    20: (7, "ebx", 7),
    21: (7, "ebx", 20),
    22: (7, "ecx", 3),
}


def cr4_bits(entries: Sequence[CpuidEntry]) -> int:
    """The bits of CR4 that may be set."""
    return _CR4 | sum(1 << bit for bit, where in _CR4_BITS.items() if _has(entries, *where))


def efer_bits(entries: Sequence[CpuidEntry]) -> int:
    """The bits of EFER that may be set; without LMA, which the processor sets itself, and SVME."""
    shown = next((entry.edx for entry in entries if entry.function == _EXTENDED), 0)
    return sum(bit for bit, feature in _EFER_BITS if shown & feature)


def _has(entries: Sequence[CpuidEntry], leaf: int, register: str, bit: int) -> bool:
    return any(entry.function == leaf and not entry.index and getattr(entry, register) >> bit & 1 for entry in entries)

"""The rules of VMRUN that a control block breaks, by native/svm_rules.c, and the limits that CPUID sets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from nestvmm._native import ffi, lib
from nestvmm.engines.guest_paging import physical_bits
from nestvmm.kvm import CpuidEntry

__all__ = ["broken_rules", "limit"]

_ALL: Final = (1 << 64) - 1
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


def limit(limits: Any, entries: Sequence[CpuidEntry]) -> None:
    """Fills a cffi `struct nv_svm_limits *` from level n's CPUID."""
    shown = next((entry.edx for entry in entries if entry.function == _EXTENDED), 0)
    limits.physical_reserved = _ALL & -(1 << physical_bits(entries))
    limits.cr4_allowed = _CR4 | sum(1 << bit for bit, where in _CR4_BITS.items() if _has(entries, *where))
    limits.efer_allowed = sum(bit for bit, feature in _EFER_BITS if shown & feature)


def broken_rules(limits: Any, block: Any) -> list[str]:
    """The rules that a block breaks, in words; VMRUN itself only says VMEXIT_INVALID.

    limits, block:  cffi `struct nv_svm_limits *` and `struct nv_vmcb *`
    """
    bits = ffi.new("uint64_t *")
    found = []
    for number in range(lib.NV_SVM_RULES):
        said = lib.nv_svm_broken_rule(limits, block, number, bits)
        if said != ffi.NULL:
            found.append(ffi.string(said).decode() + (f": {bits[0]:#x}" if bits[0] else ""))
    return found


def _has(entries: Sequence[CpuidEntry], leaf: int, register: str, bit: int) -> bool:
    return any(entry.function == leaf and not entry.index and getattr(entry, register) >> bit & 1 for entry in entries)

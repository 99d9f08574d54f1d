"""The rules of VMRUN that a control block breaks, by native/svm_rules.c, and the limits that CPUID sets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from nestvmm._native import ffi, lib
from nestvmm.engines.guest_paging import physical_bits
from nestvmm.engines.register_bits import cr4_bits, efer_bits
from nestvmm.kvm import CpuidEntry

__all__ = ["broken_rules", "limit"]

_ALL: Final = (1 << 64) - 1


def limit(limits: Any, entries: Sequence[CpuidEntry]) -> None:
    """Fills a cffi `struct nv_svm_limits *` from level n's CPUID."""
    limits.physical_reserved = _ALL & -(1 << physical_bits(entries))
    limits.cr4_allowed = cr4_bits(entries)
    limits.efer_allowed = efer_bits(entries)


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

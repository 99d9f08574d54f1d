"""Bits of the control registers, of EFER and of RFLAGS: AMD APM vol. 2, 3.1; Intel SDM vol. 3, 2.3 to 2.5."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CR0_ET",
    "CR0_NE",
    "CR0_PE",
    "CR0_PG",
    "CR0_TS",
    "CR4_PAE",
    "CR4_PCIDE",
    "CR4_VMXE",
    "EFER_LMA",
    "EFER_LME",
    "EFER_SVME",
    "RFLAGS_IF",
    "RFLAGS_NT",
    "RFLAGS_ONE",
    "RFLAGS_TF",
    "RFLAGS_VM",
]

CR0_PE: Final = 1 << 0
CR0_TS: Final = 1 << 3
CR0_ET: Final = 1 << 4
CR0_NE: Final = 1 << 5
CR0_PG: Final = 1 << 31
CR4_PAE: Final = 1 << 5
CR4_VMXE: Final = 1 << 13
CR4_PCIDE: Final = 1 << 17
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
EFER_SVME: Final = 1 << 12
#: Always set.
RFLAGS_ONE: Final = 1 << 1
RFLAGS_TF: Final = 1 << 8
RFLAGS_IF: Final = 1 << 9
RFLAGS_NT: Final = 1 << 14
RFLAGS_VM: Final = 1 << 17

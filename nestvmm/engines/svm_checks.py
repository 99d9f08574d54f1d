"""Why VMRUN refuses a control block: which of its rules the block breaks (AMD APM vol. 2, 15.5.1 and 15.20).

The processor only says VMEXIT_INVALID. A level's handler that sets registers which no processor can have is told more.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["broken_rules"]

_CR0_PE, _CR0_NW, _CR0_CD, _CR0_PG = 1 << 0, 1 << 29, 1 << 30, 1 << 31
_CR4_PAE: Final = 1 << 5
# Every bit of CR4 that a processor defines (AMD APM vol. 2, 3.1.3); KVM refuses more, those of features that it hides.
_CR4_DEFINED: Final = 0x00F77FFF
_EFER_LME, _EFER_LMA, _EFER_SVME = 1 << 8, 1 << 10, 1 << 12
_EFER_DEFINED: Final = 0x0037FD01
_CS_L, _CS_DB = 1 << 9, 1 << 10
_HIGH: Final = 0xFFFFFFFF << 32
_VMRUN: Final = 0x80  # exit code
_EVENT_VALID: Final = 1 << 31
_INJECTABLE: Final = (0, 2, 3, 4)  # interrupt, NMI, exception, software interrupt
_NMI_VECTOR, _LAST_EXCEPTION = 2, 31


def broken_rules(block: Any, physical_bits: int) -> list[str]:
    """The broken rules in words; empty when none of those that are known here is broken.

    block:          a cffi `struct nv_vmcb *`
    physical_bits:  the processor's physical address width
    """
    rules = _state(block, physical_bits)
    kind, vector = block.event_injection >> 8 & 7, block.event_injection & 0xFF
    injected = bool(block.event_injection & _EVENT_VALID)
    exception = injected and kind == _INJECTABLE[2]
    rules += [
        (not block.intercept[_VMRUN // 32] >> _VMRUN % 32 & 1, "VMRUN is not intercepted"),
        (block.asid == 0, "the ASID is 0"),
        (bool((block.iopm | block.msrpm) >> physical_bits), "a permission map lies beyond the last physical address"),
        (injected and kind not in _INJECTABLE, f"the injected event is of type {kind}"),
        (exception and vector in range(_LAST_EXCEPTION + 1, 256), f"the injected exception has vector {vector}"),
        (exception and vector == _NMI_VECTOR, "the injected exception has the NMI's vector"),
    ]
    return [rule for broken, rule in rules if broken]


def _state(block: Any, physical_bits: int) -> list[tuple[bool, str]]:
    """Rules of the guest's registers, each with whether it is broken."""
    cr0, cr4, efer = block.cr0, block.cr4, block.efer
    paged_long = bool(efer & _EFER_LME and cr0 & _CR0_PG)
    beyond = block.cr3 >> physical_bits
    return [
        (not efer & _EFER_SVME, "EFER.SVME is clear"),
        (bool(cr0 & _CR0_NW and not cr0 & _CR0_CD), "CR0.NW is set and CR0.CD is clear"),
        (bool(cr0 & _HIGH), "CR0 has bits above 31"),
        (bool(efer & _EFER_LMA and beyond), "CR3 lies beyond the last physical address"),
        (bool(cr4 & ~_CR4_DEFINED), f"CR4 has reserved bits: {cr4 & ~_CR4_DEFINED:#x}"),
        (bool(block.dr6 & _HIGH), "DR6 has bits above 31"),
        (bool(block.dr7 & _HIGH), "DR7 has bits above 31"),
        (bool(efer & ~_EFER_DEFINED), f"EFER has reserved bits: {efer & ~_EFER_DEFINED:#x}"),
        (paged_long and not cr4 & _CR4_PAE, "EFER.LME and CR0.PG are set and CR4.PAE is clear"),
        (paged_long and not cr0 & _CR0_PE, "EFER.LME and CR0.PG are set and CR0.PE is clear"),
        (
            paged_long and bool(cr4 & _CR4_PAE) and block.cs.attributes & (_CS_L | _CS_DB) == _CS_L | _CS_DB,
            "CS.L and CS.D are both set in long mode",
        ),
    ]

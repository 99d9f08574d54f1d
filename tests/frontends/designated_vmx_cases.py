"""Runs in the VMX lab: accesses to MSRs that level 1 intercepts and that are designated to L0.

For cascade_vmx_cases.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import vmx_code as vmx
from guest_code import done, keep, rdmsr, store, wrmsr
from nested_vmx_run import run
from vmx_code import VMCALL, enable, enter, image, keep_field, launch, make_block, skip

STAR, SYSENTER, UNKNOWN, UNMAPPED = 0xC0000081, 0x174, 0x1234, 0x4E570000
BEFORE, AFTER, OWN = 0x1122334455667788, 0x5566, 0x1234
MAPPED = vmx.PRIMARY_PLAIN | 1 << 28

#: Of each designation, and with a bitmap or without, how many of the accesses level 1 still hears of.
EXITS = {
    ("", True): 4,
    (f"rdmsr:{STAR:#x}=L0", True): 2,
    (f"msr:{STAR:#x}:w=L0", True): 3,
    (f"msr:{STAR:#x}=L0", True): 1,
    (f"msr:{STAR:#x}=L0", False): 1,
    (f"rdmsr:{SYSENTER:#x}=L0", True): 3,
    ("msr=L0", True): 0,
    ("msr=L0", False): 0,
}


def name_of(designate: str, mapped: bool) -> str:
    """The case's."""
    return f"MSRs {designate}".strip() + " by bitmap" * mapped


# Reads of SYSENTER_CS; reads and writes of STAR.
INTERCEPTED = (
    store(vmx.MSR_MAP + SYSENTER // 8, 1 << SYSENTER % 8, 1)
    + store(vmx.MSR_MAP + 0x400 + 0x81 // 8, 1 << 0x81 % 8, 1)
    + store(vmx.MSR_MAP + 0xC00 + 0x81 // 8, 1 << 0x81 % 8, 1)
)


def accesses(designate: str, mapped: bool) -> dict[str, object]:
    """Level 2 reads STAR and SYSENTER_CS, of which its VMCS has its own, writes STAR and reads it again.

    Level 1 skips what it hears of, so that level 2 reads anything.
    """
    controls = {vmx.PRIMARY: MAPPED if mapped else vmx.PRIMARY_PLAIN, vmx.SYSENTER_CS: OWN, vmx.HOST_SYSENTER_CS: 0x55}
    code = wrmsr(STAR, BEFORE) + enable() + make_block(controls) + INTERCEPTED + launch()
    for number in range(EXITS[designate, mapped]):
        code += keep_field(5 + number, vmx.REASON) + skip() + enter()
    code += keep_field(3, vmx.REASON) + rdmsr(STAR) + keep(4) + done()
    guest = rdmsr(STAR) + keep(0) + rdmsr(SYSENTER) + keep(1) + wrmsr(STAR, AFTER) + rdmsr(STAR) + keep(2) + VMCALL
    return run(image(code, guest), 9, designate=designate)


def hostile(index: int) -> dict[str, object]:
    """All MSRs are L0's: level 2 writes one that L0 keeps, and reads one that is none."""
    code = enable() + make_block() + launch() + keep(2) + keep_field(3, vmx.REASON)
    guest = rdmsr(vmx.FEATURE_CONTROL) + keep(0) + wrmsr(vmx.FEATURE_CONTROL, 1) + rdmsr(vmx.FEATURE_CONTROL) + keep(1)
    return run(
        image(code + rdmsr(vmx.FEATURE_CONTROL) + keep(4) + done(), guest + rdmsr(index) + VMCALL),
        5,
        designate="msr=L0",
    )


CASES: dict[str, Callable[[], dict[str, object]]] = {
    **{name_of(designate, mapped): partial(accesses, designate, mapped) for designate, mapped in EXITS},
    "hostile MSRs": partial(hostile, UNKNOWN),
    "hostile MSRs unmapped": partial(hostile, UNMAPPED),
}

"""Runs in the SVM lab: accesses to MSRs that level 1 intercepts and that are designated to L0; for cascade_cases.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import svm_code as svm
from guest_code import done, keep, rdmsr, rdx, store, wrmsr
from nested_cases import VMMCALL, keep_at, run
from svm_code import BLOCK, EXIT_CODE, GUEST, RAX, enable, image, make_block, own_gdt, skip, vmrun

STAR, DEBUGCTL, UNKNOWN, UNMAPPED = 0xC0000081, 0x1D9, 0x1234, 0x4E570000
BEFORE, AFTER, ANSWER = 0x1122334455667788, 0x5566, 0x99
MSRS = {svm.FIRST_VECTOR: svm.MSR | svm.SHUTDOWN}
HOLE = 0x3FF00000
BLOCK_2, GUEST_3 = 0x340000, 0x6000

#: Of each designation, how many of the accesses level 1 still hears of.
EXITS = {
    "": 4,
    f"rdmsr:{STAR:#x}=L0": 2,
    f"msr:{STAR:#x}:w=L0": 3,
    f"msr:{STAR:#x}=L0": 1,
    f"rdmsr:{DEBUGCTL:#x}=L0": 3,
    f"rdmsr:0-{DEBUGCTL - 1:#x}=L0": 4,
    "msr=L0": 0,
}


def intercept(index: int, at: int) -> bytes:
    """Both bits of an MSR in the map, which has the bits of MSR `index` at `at`."""
    bit = 2 * (index & 0x1FFF)
    return store(svm.MSRPM + at + bit // 8, 3 << bit % 8, 1)


INTERCEPTED = intercept(STAR, 0x800) + intercept(DEBUGCTL, 0)


def accesses(designate: str) -> dict[str, object]:
    """Level 2 reads STAR and DEBUGCTL, writes STAR and reads it again; level 1 answers what it hears of."""
    code = wrmsr(STAR, BEFORE) + enable() + make_block(MSRS) + INTERCEPTED
    for number in range(EXITS[designate]):
        code += vmrun() + keep_at(5 + number, EXIT_CODE) + store(BLOCK + RAX, ANSWER) + skip() + rdx(0)
    code += vmrun() + keep_at(3, EXIT_CODE) + rdmsr(STAR) + keep(4) + done()
    guest = rdmsr(STAR) + keep(0) + rdmsr(DEBUGCTL) + keep(1) + wrmsr(STAR, AFTER) + rdmsr(STAR) + keep(2) + VMMCALL
    return run(image(code, guest), 9, designate=designate)


def at_level_3(designate: str) -> dict[str, object]:
    """Level 2 intercepts level 3's reads as level 1 does level 2's."""
    code = wrmsr(STAR, BEFORE) + enable() + make_block(MSRS) + INTERCEPTED
    code += vmrun() + keep_at(1, EXIT_CODE) + done()
    middle = enable() + make_block(MSRS, BLOCK_2, GUEST + GUEST_3) + vmrun(BLOCK_2) + keep_at(2, EXIT_CODE, BLOCK_2)
    guest = (middle + VMMCALL).ljust(GUEST_3, b"\x90") + rdmsr(STAR) + keep(0) + VMMCALL
    return run(image(code, guest), 3, designate=designate)


def hostile(index: int) -> dict[str, object]:
    """All MSRs are L0's, level 1's map is nowhere: level 2 writes those that L0 keeps, and reads one that is none."""
    code = enable() + make_block({**MSRS, svm.MSRPM_BASE: HOLE}) + own_gdt() + vmrun()
    code += keep_at(2, EXIT_CODE) + keep_at(3, RAX) + rdmsr(svm.VM_HSAVE_PA) + keep(4) + rdmsr(svm.EFER) + keep(5)
    guest = wrmsr(svm.VM_HSAVE_PA, 0x5000) + rdmsr(svm.VM_HSAVE_PA) + keep(0)
    guest += wrmsr(svm.EFER, 0xD00) + rdmsr(svm.EFER) + keep(1) + rdmsr(index) + VMMCALL
    return run(image(code + done(), guest), 6, designate="msr=L0")


CASES: dict[str, Callable[[], dict[str, object]]] = {
    **{f"MSRs {designate}".strip(): partial(accesses, designate) for designate in EXITS},
    "MSRs at level 3": partial(at_level_3, f"rdmsr:{STAR:#x}=L0"),
    "hostile MSRs": partial(hostile, UNKNOWN),
    "hostile MSRs unmapped": partial(hostile, UNMAPPED),
}

"""Runs in the SVM lab: who hears of what level 2 does, by designation; prints what the levels kept, as JSON."""

from __future__ import annotations

from functools import partial

import designated_cases
import svm_code as svm
from guest_code import done, keep, rax, rdmsr, rdx, wrmsr
from nested_cases import VMMCALL, keep_at, run
from print_cases import print_cases
from svm_code import EXIT_CODE, GUEST_STACK, RAX, enable, image, make_block, own_gdt, skip, vmrun

L1 = "svm-instruction=L1"
SCRATCH = GUEST_STACK + 0x1000

# All but VMMCALL, on a page of level 2's.
ONES = rax(SCRATCH) + b"".join(b"\x0f\x01" + bytes([last]) for last in (0xD8, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF))
HARMLESS = rax(SCRATCH) + svm.vmsave(SCRATCH)[-3:] + svm.vmload(SCRATCH)[-3:] + svm.CLGI + svm.STGI + svm.INVLPGA
EVERY = {svm.SECOND_VECTOR: 0x7F, svm.FIRST_VECTOR: svm.CPUID | svm.SHUTDOWN | 1 << 26}


def intercepted(designate: str) -> dict[str, object]:
    """Level 1 intercepts all of them, and skips what it hears of; eight times."""
    code = enable() + make_block(EVERY)
    for number in range(8):
        code += vmrun() + keep_at(number, EXIT_CODE) + skip()
    return run(image(code + done(), ONES + VMMCALL + b"\xf4"), 8, designate=designate)


def after_enabling(designate: str) -> dict[str, object]:
    """Level 2 sets EFER.SVME, which level 1 does not intercept, and then does what L0 can do for it."""
    code = enable() + make_block(EVERY) + vmrun() + keep_at(0, EXIT_CODE) + done()
    return run(image(code, enable() + HARMLESS + VMMCALL), 1, designate=designate)


def not_intercepted(designate: str) -> dict[str, object]:
    """Level 2 looks at EFER, and does what nobody intercepts."""
    code = enable() + make_block() + own_gdt() + vmrun() + keep_at(1, EXIT_CODE) + keep_at(2, RAX) + done()
    guest = rdmsr(svm.EFER) + keep(0) + HARMLESS + rax(0x77) + VMMCALL
    return run(image(code, guest), 3, designate=designate)


def without(designate: str) -> dict[str, object]:
    """Level 2 clears EFER.SVME: what nobody intercepts is undefined."""
    code = enable() + make_block() + own_gdt() + vmrun() + keep_at(0, EXIT_CODE) + keep_at(1, RAX) + done()
    return run(image(code, rdx(0) + wrmsr(svm.EFER, 0xD00) + svm.STGI + rax(0x77) + VMMCALL), 2, designate=designate)


CASES = {"intercepted": intercepted, "enabled": after_enabling, "not intercepted": not_intercepted, "without": without}

if __name__ == "__main__":
    instructions = {f"{name} {word}".strip(): partial(case, word) for name, case in CASES.items() for word in ("", L1)}
    print_cases({**instructions, **designated_cases.CASES})

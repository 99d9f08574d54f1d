"""Runs in the VMX lab: who hears of what level 2 does, by designation; prints what the levels kept, as JSON."""

from __future__ import annotations

from functools import partial

import designated_vmx_cases
import vmx_code as vmx
from guest_code import done, keep, rax, rdmsr, rdx, store, wrmsr
from nested_vmx_run import run
from nested_vmx_same import same
from print_cases import print_cases
from vmx_code import VMCALL, enable, enter, image, keep_field, launch, make_block, skip

L1 = "vmx-instruction=L1"

OWN_MSRS = {vmx.PRIMARY: vmx.PRIMARY_PLAIN | 1 << 28}  # by an empty bitmap

# Level 2's own, in the memory that it shares with level 1.
OWN_VMXON, OWN_VMCS, DESCRIPTOR = vmx.GUEST_STACK + 0x1000, vmx.GUEST_STACK + 0x2000, vmx.GUEST_STACK + 0x3000

# All of them; VMCALL is the last.
ONES = [
    vmx.VMXON,
    vmx.VMCLEAR,
    vmx.VMPTRLD,
    vmx.VMPTRST,
    vmx.VMREAD,
    vmx.VMWRITE,
    vmx.VMLAUNCH,
    vmx.VMRESUME,
    vmx.VMXOFF,
    vmx.INVEPT,
    vmx.INVVPID,
    VMCALL,
]
# What L0 does for level 2 when that is in VMX operation, of a VMCS that it has not filled.
HARMLESS = (
    vmx.point(OWN_VMCS)
    + vmx.VMCLEAR
    + vmx.VMPTRLD
    + vmx.VMPTRST
    + vmx.vmwrite(vmx.RIP, 0x1234)
    + vmx.vmread(vmx.RIP)
    + keep(1)
    + rax(2)
    + vmx.rdi(DESCRIPTOR)
    + vmx.INVEPT
    + vmx.INVVPID
)
VMXON = store(OWN_VMXON, vmx.REVISION) + store(OWN_VMCS, vmx.REVISION) + vmx.point(OWN_VMXON) + vmx.VMXON


def every(designate: str) -> dict[str, object]:
    """Level 2 is not in VMX operation: level 1 hears of each, and skips it."""
    code = enable() + make_block()
    for number in range(len(ONES)):
        code += (enter() if number else launch()) + keep_field(number, vmx.REASON) + skip()
    return run(image(code + done(), vmx.rdi(vmx.POINTER) + b"".join(ONES)), len(ONES), designate=designate)


def in_operation(designate: str) -> dict[str, object]:
    """Level 2 looks at IA32_FEATURE_CONTROL, locks it where that is open, and does all that L0 can do for it."""
    code = enable() + make_block(OWN_MSRS) + launch() + keep_field(2, vmx.REASON) + done()
    lock = b"" if designate else wrmsr(vmx.FEATURE_CONTROL, 5)
    guest = rdmsr(vmx.FEATURE_CONTROL) + keep(0) + lock + VMXON + HARMLESS + vmx.VMXOFF + VMCALL
    return run(image(code, guest), 3, designate=designate)


def locked(designate: str) -> dict[str, object]:
    """Level 2 writes IA32_FEATURE_CONTROL; RAX is the vector of an exception that this comes to."""
    code = enable() + make_block(OWN_MSRS) + launch() + keep(0) + keep_field(1, vmx.REASON) + done()
    return run(image(code, wrmsr(vmx.FEATURE_CONTROL, 5) + rax(0x77) + rdx(0) + VMCALL), 2, designate=designate)


CASES = {"same": same, "every": every, "in operation": in_operation, "locked": locked}

if __name__ == "__main__":
    instructions = {f"{name} {word}".strip(): partial(case, word) for name, case in CASES.items() for word in ("", L1)}
    print_cases({**instructions, **designated_vmx_cases.CASES})

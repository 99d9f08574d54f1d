"""Hypervisors for tests, put together by hand: 64-bit code at CPL 0 that makes a control block and runs it.

The block's guest is 64-bit code in the same page tables unless the test says otherwise, so it can keep its results as
its hypervisor does.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from guest_code import load, rax, rdmsr, rdx, store, wrmsr

EFER = 0xC0000080
SVME = 1 << 12
VM_CR = 0xC0010114
VM_HSAVE_PA = 0xC0010117

BLOCK = 0x130000
IOPM = 0x134000
MSRPM = 0x138000
HSAVE = 0x13C000
GUEST = 0x140000
GUEST_STACK = 0x150000

# AMD APM vol. 2, appendix B.
EXCEPTIONS, FIRST_VECTOR, SECOND_VECTOR = 0x08, 0x0C, 0x10
IOPM_BASE, MSRPM_BASE, TSC_OFFSET, ASID, TLB_CONTROL = 0x40, 0x48, 0x50, 0x58, 0x5C
VIRTUAL_INTERRUPT, SHADOW = 0x60, 0x68
EXIT_CODE, INFO_1, INFO_2, INTERRUPTED = 0x70, 0x78, 0x80, 0x88
NESTED, INJECTION, NESTED_CR3, NEXT_RIP = 0x90, 0xA8, 0xB0, 0xC8
ES, CS, SS, DS, GDTR, IDTR, TR = 0x400, 0x410, 0x420, 0x430, 0x460, 0x480, 0x490
CPL, EFER_FIELD, CR4, CR3, CR0, DR7, DR6, RFLAGS, RIP, RSP, RAX, CR2, PAT = (
    0x4CB, 0x4D0, 0x548, 0x550, 0x558, 0x560, 0x568, 0x570, 0x578, 0x5D8, 0x5F8, 0x640, 0x668,
)  # fmt: skip

# Bits of the second vector, and of the first.
VMRUN, VMMCALL = 1 << 0, 1 << 1
CPUID, HLT, IOIO, MSR, SHUTDOWN = 1 << 18, 1 << 24, 1 << 27, 1 << 28, 1 << 31

_VMRUN, _VMMCALL, _VMLOAD, _VMSAVE, _STGI, _CLGI = (b"\x0f\x01" + bytes([one]) for one in range(0xD8, 0xDE))
VMMCALL_CODE, STGI, CLGI = _VMMCALL, _STGI, _CLGI
INVLPGA = b"\x0f\x01\xdf"
SKINIT = b"\x0f\x01\xde"


def enable() -> bytes:
    """Sets EFER.SVME and VM_HSAVE_PA."""
    return (
        rdmsr(EFER)
        + b"\x48\x0d"
        + struct.pack("<I", SVME)
        + b"\x48\x89\xc2\x48\xc1\xea\x20\x0f\x30"
        + wrmsr(VM_HSAVE_PA, HSAVE)
    )


def control_register(number: int) -> bytes:
    """RAX = CRn."""
    return b"\x0f\x20" + bytes([0xC0 | number << 3])


def store_rax(address: int) -> bytes:
    return b"\x48\xbf" + struct.pack("<Q", address) + b"\x48\x89\x07"


def make_block(fields: Mapping[int, int] | None = None, at: int = BLOCK, guest: int = GUEST) -> bytes:
    """A block for 64-bit code at `guest`, in the hypervisor's own page tables; then these fields, by their offsets."""
    code = store(at + SECOND_VECTOR, VMRUN | VMMCALL, 4) + store(at + FIRST_VECTOR, CPUID | SHUTDOWN, 4)
    code += store(at + ASID, 1, 4) + store(at + IOPM_BASE, IOPM) + store(at + MSRPM_BASE, MSRPM)
    for segment in (ES, SS, DS):
        code += store(at + segment, 0x18 | 0x0C93 << 16 | 0xFFFFFFFF << 32)
    code += store(at + CS, 0x10 | 0x0A9B << 16 | 0xFFFFFFFF << 32)
    code += store(at + GDTR, 0xFFFF << 32) + store(at + IDTR, 0xFFFF << 32)
    for number, field in ((0, CR0), (3, CR3), (4, CR4)):
        code += control_register(number) + store_rax(at + field)
    code += store(at + EFER_FIELD, 0x1D00) + store(at + RFLAGS, 2) + store(at + DR6, 0xFFFF0FF0)
    code += store(at + DR7, 0x400) + store(at + PAT, 0x0007040600070406)
    code += store(at + RIP, guest) + store(at + RSP, GUEST_STACK)
    for offset, value in (fields or {}).items():
        size = 1 if offset in (CPL, TLB_CONTROL) else 4 if offset < 0x20 or offset == ASID else 8
        code += store(at + offset, value, size)
    return code


GUEST_IDT = 0x160000
GUEST_STUBS = 0x162000


def guest_handlers() -> bytes:
    """At GUEST_IDT: a gate for each vector to a stub that does VMMCALL with the vector in RAX, at CPL 0."""
    gates = b""
    for vector in range(256):
        at = GUEST_STUBS + 16 * vector
        gates += struct.pack("<HHBBHII", at & 0xFFFF, 0x10, 0, 0x8E, at >> 16, 0, 0)
    stubs = b"".join((b"\xb8" + struct.pack("<I", vector) + _VMMCALL).ljust(16, b"\x90") for vector in range(256))
    return gates.ljust(GUEST_STUBS - GUEST_IDT, b"\0") + stubs


def own_gdt(at: int = BLOCK) -> bytes:
    """Gives the block the hypervisor's own GDT, and the guest's IDT."""
    sgdt = b"\x48\xbf" + struct.pack("<Q", 0x133000) + b"\x0f\x01\x07"
    code = sgdt + load(0x133002) + store_rax(at + GDTR + 8)
    return code + store(at + IDTR + 8, GUEST_IDT)


def vmrun(at: int = BLOCK) -> bytes:
    return rax(at) + _VMRUN


def vmload(at: int = BLOCK) -> bytes:
    return rax(at) + _VMLOAD


def vmsave(at: int = BLOCK) -> bytes:
    return rax(at) + _VMSAVE


def skip(at: int = BLOCK) -> bytes:
    """Moves the guest behind the instruction that was stopped, by the next RIP that the block has."""
    return load(at + NEXT_RIP) + store_rax(at + RIP)


def keep_field(number: int, offset: int, at: int = BLOCK) -> bytes:
    """A field of the block goes to result `number`."""
    return load(at + offset) + store_rax(0x120000 + 8 * number)


def image(code: bytes, guest: bytes, base: int = 0x100000) -> bytes:
    """The hypervisor's code at `base` with its guest's at GUEST, and the guest's handlers."""
    if base + len(code) > BLOCK or GUEST + len(guest) > GUEST_STACK - 0x1000:
        raise ValueError("the code reaches into its tables")
    return (code.ljust(GUEST - base, b"\0") + guest).ljust(GUEST_IDT - base, b"\0") + guest_handlers()


def out_dx(port: int, value: int) -> bytes:
    return rax(value) + rdx(port) + b"\xee"

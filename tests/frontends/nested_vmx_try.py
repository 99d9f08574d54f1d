"""What an instruction of a hypervisor comes to: its flags, or the vector of its fault, one result after the other."""

from __future__ import annotations

import struct

import vmx_code as vmx
from guest_code import RESULTS, rax, store


def at_result(number: int) -> bytes:
    """R8, the next result's place. R9 is where a fault goes on."""
    return b"\x49\xb8" + struct.pack("<Q", RESULTS + 8 * number)


BEGIN = at_result(0)
STORE = b"\x49\x89\x00\x49\x83\xc0\x08"  # mov %rax, (%r8); add $8, %r8


def _handler(vector: int, error: bool) -> bytes:
    code = b"\x49\xc7\x00" + struct.pack("<I", 0x100 + vector) + b"\x49\x83\xc0\x08"
    return code + (b"\x48\x83\xc4\x08" if error else b"") + b"\x4c\x89\x0c\x24\x48\xcf"


#: #UD, #SS, #GP and #PF: the result is 0x100 + vector.
FAULTS = {6: _handler(6, False), 12: _handler(12, True), 13: _handler(13, True), 14: _handler(14, True)}


def tried(body: bytes) -> bytes:
    """Where it does not fault, CF and ZF."""
    unfaulted = b"\x9c\x58\x83\xe0\x41" + STORE  # pushf; pop %rax; and $0x41, %eax
    return b"\x4c\x8d\x0d" + struct.pack("<I", len(body + unfaulted)) + body + unfaulted


def errored(body: bytes) -> bytes:
    """The same, then the VM-instruction error."""
    return tried(body) + vmx.vmread(vmx.ERROR) + STORE


# Of INVEPT and INVVPID: the type, the descriptor's two words, and the VM-instruction error; 0: there is none.
INVALIDATIONS = {
    vmx.INVEPT: [
        *((1, vmx.EPT | 0x1E, 0, 0), (2, 0, 0, 0), (1, vmx.EPT | 0x1D, 0, 28), (1, vmx.EPT | 0x16, 0, 28)),
        *((1, 1 << 51 | 0x1E, 0, 28), (0, vmx.EPT | 0x1E, 0, 28), (3, vmx.EPT | 0x1E, 0, 28)),
    ],
    vmx.INVVPID: [
        *((0, 1, 0x1000, 0), (1, 1, 0, 0), (2, 0, 0, 0), (3, 1, 0, 0), (0, 1, 1 << 60, 28), (0, 0, 0x1000, 28)),
        *((1, 0, 0, 28), (3, 0, 0, 28), (3, 1 << 16 | 1, 0, 28), (4, 1, 0, 28)),
    ],
}


def invalidations() -> bytes:
    """Each of them: CF and ZF."""
    code = b""
    for instruction, ways in INVALIDATIONS.items():
        for kind, first, second, _ in ways:
            code += store(vmx.POINTER, first) + store(vmx.POINTER + 8, second) + rax(kind) + vmx.rdi(vmx.POINTER)
            code += tried(instruction) + vmx.vmread(vmx.ERROR) + STORE
    return code


def told(*fields: int) -> bytes:
    """Fields of the current VMCS."""
    return b"".join(vmx.vmread(field) + STORE for field in fields)

"""What an instruction of a hypervisor comes to: its flags, or the vector of its fault, one result after the other."""

from __future__ import annotations

import struct

import vmx_code as vmx
from guest_code import RESULTS


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


def told(*fields: int) -> bytes:
    """Fields of the current VMCS."""
    return b"".join(vmx.vmread(field) + STORE for field in fields)

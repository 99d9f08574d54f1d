"""The MultiProcessor configuration table: the processor, the I/O APIC, and the interrupt lines that lead there.

Intel MultiProcessor Specification 1.4, chapter 4. Without it Linux leaves the local APIC in virtual wire mode, where
KVM can lose the PIT's tick for good: the PIC's output rises while LINT0 is masked, and unmasking it makes KVM look at
the vCPU no more. With it Linux uses the I/O APIC.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["MP_TABLE_ADDRESS", "mp_table"]

#: Where the floating pointer lies: the BIOS's read-only memory is one of the places that the specification names.
MP_TABLE_ADDRESS: Final = 0xF0000

_LOCAL_APIC: Final = 0xFEE00000
_IO_APIC: Final = 0xFEC00000
_VERSION: Final = 4  # 1.4
_APIC_VERSION: Final = 0x14
_IO_APIC_VERSION: Final = 0x11
_IO_APIC_ID: Final = 1
_ENABLED_BOOT_PROCESSOR: Final = 3
_ISA_LINES: Final = 16
_ALL_APICS: Final = 0xFF

# interrupt types of entries 3 and 4
_INT: Final = 0
_NMI: Final = 1
_EXTINT: Final = 3


def mp_table(address: int = MP_TABLE_ADDRESS) -> bytes:
    """The floating pointer, and the configuration table of a machine with one processor behind it."""
    entries = [
        struct.pack("<BBBBII8x", 0, 0, _APIC_VERSION, _ENABLED_BOOT_PROCESSOR, 0x600, 0x201),
        struct.pack("<BB6s", 1, 0, b"ISA   "),
        struct.pack("<BBBBI", 2, _IO_APIC_ID, _IO_APIC_VERSION, 1, _IO_APIC),
    ]
    # KVM's default routing takes line n to pin n, line 0 included (arch/x86/kvm/irq_comm.c)
    for line in range(_ISA_LINES):
        entries.append(struct.pack("<BBHBBBB", 3, _INT, 0, 0, line, _IO_APIC_ID, line))
    for pin, kind in enumerate((_EXTINT, _NMI)):
        entries.append(struct.pack("<BBHBBBB", 4, kind, 0, 0, 0, _ALL_APICS, pin))
    body = b"".join(entries)
    length = 44 + len(body)
    header = struct.pack(
        "<4sHBB8s12sIHHII",
        b"PCMP",
        length,
        _VERSION,
        0,
        b"NESTVMM ",
        b"pc          ",
        0,
        0,
        len(entries),
        _LOCAL_APIC,
        0,
    )
    table = _checksummed(header + body, 7)
    pointer = _checksummed(struct.pack("<4sIBBB5x", b"_MP_", address + 16, 1, _VERSION, 0), 10)
    return pointer + table


def _checksummed(data: bytes, at: int) -> bytes:
    """Makes all bytes sum up to 0 by the one at `at`, which is 0."""
    return data[:at] + bytes([-sum(data) & 0xFF]) + data[at + 1 :]

"""The switcher's memory: its code, the mailbox, and what a processor needs to run it in 64-bit mode at CPL 0.

It lies in a memory slot of its own (native/switcher/mailbox.h has the places). Level n's nested page tables never lead
there, so level n can neither read nor map it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nestvmm._native import ffi, lib
from nestvmm.errors import HostError
from nestvmm.kvm import DescriptorTable, HostMemory, Segment, Sregs, Vm

__all__ = ["CODE", "DATA", "TASK", "Switcher", "switcher_sregs"]

CODE: Final = lib.NV_SWITCHER_CODE_SELECTOR
DATA: Final = lib.NV_SWITCHER_DATA_SELECTOR
TASK: Final = lib.NV_SWITCHER_TASK_SELECTOR
# A task-state segment, for VMX needs one: 16 bytes.
_TSS: Final = lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_TSS
_GDT: Final = (
    *(0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF),
    *(0x8B << 40 | (_TSS & 0xFFFFFF) << 16 | (_TSS >> 24 & 0xFF) << 56 | 0x67, _TSS >> 32),
)

_PRESENT_WRITE: Final = 0x3
_LARGE: Final = 0x80
_FAULTS: Final = 32
_INTERRUPTS: Final = 256


class Switcher:
    """One vCPU's switcher in `vm`, linked in as the memory slot `slot`; a context manager."""

    def __init__(self, vm: Vm, slot: int, vendor: str) -> None:
        self._host = HostMemory(lib.NV_SWITCHER_SIZE)
        vm.set_memory_region(slot, lib.NV_SWITCHER_BASE, lib.NV_SWITCHER_SIZE, self._host.address)
        self._host.write(lib.NV_SWITCHER_CODE, _image(vendor))
        self._write_words(lib.NV_SWITCHER_GDT, _GDT)
        self._write_idt(lib.NV_SWITCHER_IDT, lib.NV_SWITCHER_GATES, _FAULTS)
        self._write_idt(lib.NV_SWITCHER_INTERRUPT_IDT, lib.NV_SWITCHER_INTERRUPT_GATES, _INTERRUPTS)
        for operand, table, count in (
            (lib.NV_MAILBOX_IDT, lib.NV_SWITCHER_IDT, _FAULTS),
            (lib.NV_MAILBOX_INTERRUPT_IDT, lib.NV_SWITCHER_INTERRUPT_IDT, _INTERRUPTS),
        ):
            register = struct.pack("<HQ", 16 * count - 1, lib.NV_SWITCHER_BASE + table)
            self._host.write(lib.NV_SWITCHER_MAILBOX + operand, register)
        self._write_page_tables()

    def __enter__(self) -> Switcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self._host.close()

    def write(self, offset: int, data: bytes) -> None:
        """Writes bytes at an offset."""
        self._host.write(offset, data)

    def place(self, offset: int, kind: str) -> Any:
        """The C struct at an offset, as a cffi pointer; valid while this object is open."""
        return ffi.cast(kind, self._host.address + offset)

    def _write_words(self, offset: int, words: Sequence[int]) -> None:
        self._host.write(offset, struct.pack(f"<{len(words)}Q", *words))

    def set_gate(self, vector: int, code: int) -> None:
        """Leads a fault's or an NMI's vector to code at an offset."""
        self._host.write(lib.NV_SWITCHER_IDT + 16 * vector, _gate(code))

    def _write_idt(self, table: int, stubs: int, count: int) -> None:
        """Interrupt gates at `table` to stubs of 16 bytes each."""
        self._host.write(table, b"".join(_gate(stubs + 16 * vector) for vector in range(count)))

    def _write_page_tables(self) -> None:
        """The switcher's own map of itself."""
        base = lib.NV_SWITCHER_BASE
        entry = base >> 39 & 511, base >> 30 & 511, base >> 21 & 511
        self._write_words(lib.NV_SWITCHER_PML4 + 8 * entry[0], [base + lib.NV_SWITCHER_PDPT | _PRESENT_WRITE])
        self._write_words(lib.NV_SWITCHER_PDPT + 8 * entry[1], [base + lib.NV_SWITCHER_PD | _PRESENT_WRITE])
        self._write_words(lib.NV_SWITCHER_PD + 8 * entry[2], [base | _PRESENT_WRITE | _LARGE])


def _gate(code: int) -> bytes:
    """An interrupt gate to code at an offset."""
    address = lib.NV_SWITCHER_BASE + code
    return struct.pack("<HHHHII", address & 0xFFFF, CODE, 0x8E00, address >> 16 & 0xFFFF, address >> 32, 0)


def _image(vendor: str) -> bytes:
    """The linked code, which the build puts beside this file."""
    path = Path(__file__).with_name(f"switcher_{vendor}.bin")
    try:
        image = path.read_bytes()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; install nestvmm anew") from None
    if len(image) > lib.NV_SWITCHER_CODE_MAX:
        raise HostError(f"{path}: {len(image)} bytes are no switcher; install nestvmm anew")
    return image


def switcher_sregs(sregs: Sregs) -> Sregs:
    """A vCPU's system registers, changed to what the switcher runs with; FS, GS, TR and LDTR stay level n's."""
    base = lib.NV_SWITCHER_BASE
    code = Segment(limit=0xFFFFFFFF, selector=CODE, type=11, present=1, s=1, l=1, g=1)
    data = Segment(limit=0xFFFFFFFF, selector=DATA, type=3, present=1, s=1, db=1, g=1)
    sregs.cs = code
    sregs.ds = sregs.es = sregs.ss = data
    sregs.gdt = DescriptorTable(base + lib.NV_SWITCHER_GDT, 8 * len(_GDT) - 1)
    sregs.idt = DescriptorTable(base + lib.NV_SWITCHER_IDT, 16 * _FAULTS - 1)
    sregs.cr0, sregs.cr3, sregs.cr4 = 0x80000031, base + lib.NV_SWITCHER_PML4, 0x20
    sregs.efer = 0xD00  # with NXE, for nested page tables
    return sregs

"""The state in which a virtual CPU starts: an `Entry` turned into KVM's registers.

The segments are what a flat GDT would load, with the hidden parts spelled out, so the state passes the entry checks of
KVM_RUN, of VMRUN (AMD APM vol. 2, 15.5.1) and of VM entry (Intel SDM vol. 3, 27.3.1): TR is a present busy TSS, LDTR is
unusable, CR0.NE is set in every mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from nestvmm.x86.control import CR0_ET, CR0_NE, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME

if TYPE_CHECKING:
    from nestvmm.kvm import DescriptorTable, Regs, Segment, Sregs

__all__ = [
    "CODE_SELECTOR",
    "DATA_SELECTOR",
    "LONG_MODE_GDT",
    "PROTECTED_MODE_GDT",
    "Entry",
    "Mode",
    "enter",
    "enter_long_mode",
    "enter_protected_mode",
    "enter_real_mode",
]

Mode = Literal["long", "protected", "real"]

# Linux's __BOOT_CS and __BOOT_DS (Documentation/arch/x86/boot.rst); every flat GDT here has them.
CODE_SELECTOR: Final = 0x10
DATA_SELECTOR: Final = 0x18

_DATA_DESCRIPTOR: Final = 0x00CF_9300_0000_FFFF
LONG_MODE_GDT: Final = b"".join(
    descriptor.to_bytes(8, "little") for descriptor in (0, 0, 0x00AF_9B00_0000_FFFF, _DATA_DESCRIPTOR)
)
PROTECTED_MODE_GDT: Final = b"".join(
    descriptor.to_bytes(8, "little") for descriptor in (0, 0, 0x00CF_9B00_0000_FFFF, _DATA_DESCRIPTOR)
)


_TYPE_LDT: Final = 2
_TYPE_DATA: Final = 3  # read/write, accessed
_TYPE_CODE: Final = 11  # execute/read, accessed; of a system segment: busy TSS


class Entry(NamedTuple):
    """Where and how a virtual CPU starts: CPL 0, interrupts off, what is not named here zero.

    mode:                   "long" (paging by cr3), "protected" (flat, paging off) or "real" (all segments 0)
    rip, rsp, rax, ...:     general registers; rip is a linear address, in real mode below 64 KiB
    cr3:                    physical address of the PML4; long mode only
    gdt_base, gdt_limit:    the GDT, which holds LONG_MODE_GDT or PROTECTED_MODE_GDT; not in real mode
    """

    mode: Mode
    rip: int
    rsp: int = 0
    rax: int = 0
    rbx: int = 0
    rsi: int = 0
    rdi: int = 0
    cr3: int = 0
    gdt_base: int = 0
    gdt_limit: int = 0


def enter(entry: Entry, regs: Regs, sregs: Sregs) -> None:
    """Change both register sets to those of `entry`; its APIC base and pending interrupts stay as they are."""
    for name in ("rcx", "rdx", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"):
        setattr(regs, name, 0)
    for name in ("rip", "rsp", "rax", "rbx", "rsi", "rdi"):
        setattr(regs, name, getattr(entry, name))
    regs.rflags = 2
    gdt = (entry.gdt_base, entry.gdt_limit)
    if entry.mode == "long":
        enter_long_mode(sregs, entry.cr3, gdt)
    elif entry.mode == "protected":
        enter_protected_mode(sregs, gdt)
    else:
        enter_real_mode(sregs)


def enter_long_mode(sregs: Sregs, cr3: int, gdt: tuple[int, int]) -> None:
    """64-bit mode with flat segments of LONG_MODE_GDT, paging by the PML4 at physical address `cr3`.

    gdt: linear address and limit (bytes less one). The IDT is empty: any exception is a triple fault.
    """
    _flat_segments(sregs, long=1)
    _descriptor_tables(sregs, gdt, idt_limit=0)
    _control_registers(sregs, cr0=CR0_PE | CR0_ET | CR0_NE | CR0_PG, cr3=cr3, cr4=CR4_PAE, efer=EFER_LME | EFER_LMA)


def enter_protected_mode(sregs: Sregs, gdt: tuple[int, int]) -> None:
    """32-bit protected mode with flat segments of PROTECTED_MODE_GDT, paging off; gdt and IDT as in long mode."""
    _flat_segments(sregs, long=0)
    _descriptor_tables(sregs, gdt, idt_limit=0)
    _control_registers(sregs, cr0=CR0_PE | CR0_ET | CR0_NE)


def enter_real_mode(sregs: Sregs, code_segment: int = 0) -> None:
    """Real mode: CS is `code_segment` (0 to 0xffff, base 16 times that), the other segments 0, the IVT at 0."""
    _set(sregs.cs, code_segment, _TYPE_CODE, base=code_segment << 4, limit=0xFFFF)
    for segment in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _set(segment, 0, _TYPE_DATA, limit=0xFFFF)
    _system_segments(sregs)
    _descriptor_tables(sregs, (0, 0xFFFF), idt_limit=0x3FF)
    _control_registers(sregs, cr0=CR0_ET | CR0_NE)


def _flat_segments(sregs: Sregs, long: int) -> None:
    # CS.L and CS.D together are refused by VMRUN and VM entry alike.
    _set(sregs.cs, CODE_SELECTOR, _TYPE_CODE, granular=1, long=long, big=1 - long)
    for segment in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _set(segment, DATA_SELECTOR, _TYPE_DATA, granular=1, big=1)
    _system_segments(sregs)


def _system_segments(sregs: Sregs) -> None:
    _set(sregs.tr, 0, _TYPE_CODE, limit=0xFFFF, system=True)
    _set(sregs.ldt, 0, _TYPE_LDT, limit=0xFFFF, system=True, present=0)


def _set(
    segment: Segment,
    selector: int,
    kind: int,
    *,
    base: int = 0,
    limit: int = 0xFFFF_FFFF,
    granular: int = 0,
    long: int = 0,
    big: int = 0,
    system: bool = False,
    present: int = 1,
) -> None:
    segment.selector = selector
    segment.base = base
    segment.limit = limit
    segment.type = kind
    segment.s = 0 if system else 1
    segment.dpl = 0
    segment.present = present
    segment.unusable = 1 - present
    segment.avl = 0
    segment.l = long
    segment.db = big
    segment.g = granular


def _descriptor_tables(sregs: Sregs, gdt: tuple[int, int], idt_limit: int) -> None:
    _set_table(sregs.gdt, *gdt)
    _set_table(sregs.idt, 0, idt_limit)


def _set_table(table: DescriptorTable, base: int, limit: int) -> None:
    table.base = base
    table.limit = limit


def _control_registers(sregs: Sregs, cr0: int, cr3: int = 0, cr4: int = 0, efer: int = 0) -> None:
    sregs.cr0 = cr0
    sregs.cr2 = 0
    sregs.cr3 = cr3
    sregs.cr4 = cr4
    sregs.cr8 = 0
    sregs.efer = efer

"""Every SVM exit code: AMD APM vol. 2, appendix C; intercept bits: 15.9 and appendix B.

The intercept vectors are one string of bits that the exit codes number, from the control block's first byte on: bit
0x72 of it is CPUID's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.exit_row import (
    EVENT,
    INSTRUCTION,
    L0,
    LEVELS,
    MACHINE,
    NEVER,
    PENDING,
    READ,
    WRITE,
    ExitRow,
    Intercept,
    Source,
    exit_row,
)

__all__ = ["SVM_EXITS"]

_U64: Final = 1 << 64
_VECTORS_END: Final = 0xC0
_EFER: Final = 0xC0000080

# Why.
_ABSENT: Final = "no such register: #UD comes first"
_SEV: Final = "encrypted guests only, which KVM does not nest"
_AVIC: Final = "AVIC stays off: KVM's own APIC is level n's"


def _registers() -> Iterator[ExitRow]:
    """0x00 to 0x3f: moves from and to control and debug registers."""
    for number in range(16):
        exists = number in (0, 2, 3, 4, 8)
        who = (INSTRUCTION, LEVELS) if exists else (_ABSENT, NEVER)
        shortest = 3 if number else 2  # CLTS
        yield exit_row(number, f"CR{number}_READ", ExitReason.CR_READ, Source.CODE_4, 3, *who, direction=READ)
        yield exit_row(
            0x10 + number, f"CR{number}_WRITE", ExitReason.CR_WRITE, Source.CODE_4, shortest, *who, direction=WRITE
        )
        who = (INSTRUCTION, LEVELS) if number < 8 else (_ABSENT, NEVER)
        yield exit_row(0x20 + number, f"DR{number}_READ", ExitReason.DR_READ, Source.CODE_4, 3, *who, direction=READ)
        yield exit_row(0x30 + number, f"DR{number}_WRITE", ExitReason.DR_WRITE, Source.CODE_4, 3, *who, direction=WRITE)


def _exceptions() -> Iterator[ExitRow]:
    """0x40 to 0x5f."""
    for vector in range(32):
        who = ("an NMI is VMEXIT_NMI", NEVER) if vector == 2 else (EVENT, LEVELS)
        yield exit_row(0x40 + vector, f"EXCP{vector}", ExitReason.EXCEPTION, Source.CODE_5, 0, *who)


def _descriptor_tables() -> Iterator[ExitRow]:
    """0x66 to 0x6d."""
    for place, (name, value) in enumerate((("IDTR", 1), ("GDTR", 0), ("LDTR", 2), ("TR", 3))):
        for first, way, direction in (0x66, "READ", READ), (0x6A, "WRITE", WRITE):
            yield exit_row(
                first + place,
                f"{name}_{way}",
                ExitReason.DESCRIPTOR_TABLE,
                Source.ROW,
                3,
                direction=direction,
                value=value,
            )


def _write_traps() -> Iterator[ExitRow]:
    """0x8f to 0x9f."""
    trap = ExitReason.WRITE_TRAP
    yield exit_row(0x8F, "EFER_WRITE_TRAP", trap, Source.ROW, 0, _SEV, NEVER, value=_EFER)
    for number in range(16):
        yield exit_row(0x90 + number, f"CR{number}_WRITE_TRAP", trap, Source.CODE_4, 0, _SEV, NEVER)


_CODE, _SVM = Source.CODE, ExitReason.SVM_INSTRUCTION

_OTHERS: Final = (
    exit_row(0x60, "INTR", ExitReason.INTERRUPT, why=PENDING),
    exit_row(0x61, "NMI", ExitReason.NMI, why=f"{PENDING}; L0 always intercepts it, to stop level n at any time"),
    exit_row(0x62, "SMI", ExitReason.SMI, why=PENDING),
    exit_row(0x63, "INIT", ExitReason.INIT, why=PENDING),
    exit_row(0x64, "VINTR", ExitReason.INTERRUPT_WINDOW, why="a level that has an interrupt to give waits for it"),
    exit_row(
        *(0x65, "CR0_SEL_WRITE", ExitReason.CR_WRITE, Source.ROW, 3, "VMEXIT_CR0_WRITE is used, of all bits", NEVER),
        direction=WRITE,
    ),
    exit_row(0x6E, "RDTSC", ExitReason.RDTSC, length=2),
    exit_row(0x6F, "RDPMC", ExitReason.RDPMC, Source.ECX, 2),
    exit_row(0x70, "PUSHF", ExitReason.PUSHF, length=1),
    exit_row(0x71, "POPF", ExitReason.POPF, length=1),
    exit_row(0x72, "CPUID", ExitReason.CPUID, Source.EAX, 2),
    exit_row(
        0x73, "RSM", ExitReason.RSM, length=2, why="level n never runs in SMM; elsewhere it is #UD", handlers=NEVER
    ),
    exit_row(0x74, "IRET", ExitReason.IRET, length=1),
    exit_row(0x75, "SWINT", ExitReason.SOFTWARE_INTERRUPT, Source.VECTOR, 2),
    exit_row(0x76, "INVD", ExitReason.INVD, length=2),
    exit_row(0x77, "PAUSE", ExitReason.PAUSE, length=2),
    exit_row(0x78, "HLT", ExitReason.HLT, length=1),
    exit_row(0x79, "INVLPG", ExitReason.INVLPG, length=3),
    exit_row(0x7A, "INVLPGA", _SVM, _CODE, 3),
    exit_row(
        *(0x7B, "IOIO", ExitReason.IO, Source.PORT, 1),
        direction=READ,
        by=("I/O permissions map",),
    ),
    exit_row(
        *(0x7C, "MSR", (ExitReason.RDMSR, ExitReason.WRMSR), Source.ECX, 2),
        direction=READ,
        by=("MSR permissions map",),
    ),
    exit_row(0x7D, "TASK_SWITCH", ExitReason.TASK_SWITCH, Source.SELECTOR, why=EVENT),
    exit_row(0x7E, "FERR_FREEZE", ExitReason.FERR_FREEZE, why="KVM's guests have no FERR pin", handlers=NEVER),
    exit_row(0x7F, "SHUTDOWN", ExitReason.SHUTDOWN, why=MACHINE),
    exit_row(0x80, "VMRUN", _SVM, _CODE, 3),
    exit_row(0x81, "VMMCALL", ExitReason.HYPERCALL, Source.RAX, 3),
    exit_row(0x82, "VMLOAD", _SVM, _CODE, 3),
    exit_row(0x83, "VMSAVE", _SVM, _CODE, 3),
    exit_row(0x84, "STGI", _SVM, _CODE, 3),
    exit_row(0x85, "CLGI", _SVM, _CODE, 3),
    exit_row(0x86, "SKINIT", _SVM, _CODE, 3),
    exit_row(0x87, "RDTSCP", ExitReason.RDTSCP, length=3),
    exit_row(0x88, "ICEBP", ExitReason.ICEBP, length=1),
    exit_row(0x89, "WBINVD", ExitReason.WBINVD, length=2),
    exit_row(0x8A, "MONITOR", ExitReason.MONITOR, length=3),
    exit_row(0x8B, "MWAIT", ExitReason.MWAIT, length=3),
    exit_row(
        *(0x8C, "MWAIT_CONDITIONAL", ExitReason.MWAIT, Source.NOTHING, 3),
        *("VMEXIT_MWAIT is used, armed or not", NEVER),
    ),
    exit_row(0x8D, "XSETBV", ExitReason.XSETBV, Source.ECX, 3),
    exit_row(0x8E, "RDPRU", ExitReason.RDPRU, Source.ECX, 3),
    exit_row(
        0xA0, "INVLPGB", ExitReason.INVLPGB, length=3, why="KVM leaves INVLPGB off in guests: #UD", handlers=NEVER
    ),
    exit_row(
        *(0xA1, "INVLPGB_ILLEGAL", ExitReason.INVLPGB, Source.NOTHING, 3),
        *("KVM leaves INVLPGB off in guests: #UD", NEVER),
    ),
    exit_row(0xA2, "INVPCID", ExitReason.INVPCID, length=5),
    exit_row(
        0xA3, "MCOMMIT", ExitReason.MCOMMIT, length=4, why="KVM leaves MCOMMIT off in guests: #UD", handlers=NEVER
    ),
    exit_row(
        0xA4, "TLBSYNC", ExitReason.TLBSYNC, length=3, why="KVM leaves INVLPGB off in guests: #UD", handlers=NEVER
    ),
    exit_row(0xA5, "BUSLOCK", ExitReason.BUS_LOCK, why="KVM does not nest bus lock thresholds", handlers=NEVER),
    exit_row(0xA6, "IDLE_HLT", ExitReason.HLT, length=1, why="VMEXIT_HLT is used, idle or not", handlers=NEVER),
    exit_row(
        *(0x400, "NPF", ExitReason.NESTED_PAGE_FAULT, Source.PHYSICAL),
        why="level n reached for what its map does not give it",
        by=("nested paging",),
    ),
    exit_row(0x401, "AVIC_INCOMPLETE_IPI", ExitReason.INCOMPLETE_IPI, why=_AVIC, handlers=NEVER),
    exit_row(0x402, "AVIC_NOACCEL", ExitReason.APIC_ACCESS, Source.OFFSET, 0, _AVIC, NEVER),
    exit_row(0x403, "VMGEXIT", _SVM, _CODE, 4, _SEV, NEVER),
    exit_row(0x407, "PML_FULL", ExitReason.PAGE_LOG_FULL, why="L0 does not log written pages", handlers=NEVER),
    exit_row(0xF0000000, "SW", ExitReason.UNKNOWN, _CODE, 0, "left to software: no processor gives it", NEVER),
    exit_row(_U64 - 4, "INVALID_PMC", ExitReason.ENTRY_FAILURE, _CODE, 0, _SEV, NEVER),
    exit_row(_U64 - 3, "IDLE_REQUIRED", ExitReason.ENTRY_FAILURE, _CODE, 0, _SEV, NEVER),
    exit_row(_U64 - 2, "BUSY", ExitReason.ENTRY_FAILURE, _CODE, 0, _SEV, NEVER),
    exit_row(_U64 - 1, "INVALID", ExitReason.ENTRY_FAILURE, _CODE, 0, "the state that L0 built was refused", L0),
)


def _named(row: ExitRow) -> ExitRow:
    """With the manual's name, and the bit of the intercept vectors that the code is the number of."""
    vector = (Intercept(f"VMCB {row.code // 32 * 4:#05x}", row.code % 32),) if row.code < _VECTORS_END else ()
    return row._replace(name=f"VMEXIT_{row.name}", intercepts=(*vector, *row.intercepts))


#: By code.
SVM_EXITS: Final[Mapping[int, ExitRow]] = {
    row.code: _named(row)
    for row in sorted((*_registers(), *_exceptions(), *_descriptor_tables(), *_write_traps(), *_OTHERS))
}

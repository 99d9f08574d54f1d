"""The rules of VM entry that level n's state breaks; the processor itself only says that it is one of them.

Intel SDM vol. 3, 27.3.1, as far as this engine leaves something to break: it sets the controls, CR0.NE and CR4.VMXE
itself, and guests are unrestricted. CR0.NW and CR0.CD are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from nestvmm.kvm import Regs, Segment, Sregs
from nestvmm.x86.control import CR0_PE, CR0_PG, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, RFLAGS_ONE, RFLAGS_VM

__all__ = ["Limits", "broken_rules"]

_RFLAGS_RESERVED: Final = ~((1 << 22) - 1) & (1 << 64) - 1 | 1 << 15 | 1 << 5 | 1 << 3
_TI: Final = 1 << 2
_CODE: Final = 1 << 3
_READABLE: Final = 1 << 1
_ACCESSED: Final = 1 << 0
_BUSY_TSS: Final = 11
_LDT: Final = 2
_CODE_TYPES: Final = (9, 11, 13, 15)
_STACK_TYPES: Final = (3, 7)
_V8086: Final = (0xFFFF, 3, 1, 3, 1)  # limit, type, S, DPL, P


class Limits(NamedTuple):
    """What level n's processor has.

    cr4:       the bits of CR4 that may be set (the MSR IA32_VMX_CR4_FIXED1)
    efer:      likewise, of EFER
    physical:  bits of a physical address
    """

    cr4: int
    efer: int
    physical: int


class _State(NamedTuple):
    regs: Regs
    sregs: Sregs
    limits: Limits

    @property
    def long(self) -> bool:
        return bool(self.sregs.efer & EFER_LMA)

    @property
    def paging(self) -> bool:
        return bool(self.sregs.cr0 & CR0_PG)


def _canonical(address: int) -> bool:
    return address >> 47 in (0, (1 << 17) - 1)


def _registers(state: _State) -> Iterator[tuple[bool, str]]:
    """27.3.1.1 and 27.3.1.4."""
    regs, sregs, limits = state.regs, state.sregs, state.limits
    yield sregs.cr0 >> 32 != 0, "CR0 has bits above 31"
    yield state.paging and not sregs.cr0 & CR0_PE, "CR0.PG is set and CR0.PE is clear"
    reserved = sregs.cr4 & ~limits.cr4
    yield reserved != 0, f"CR4 has reserved bits: {reserved:#x}"
    yield bool(sregs.cr3 >> limits.physical), "CR3 lies beyond the last physical address"
    yield state.long and not sregs.cr4 & CR4_PAE, "EFER.LMA is set and CR4.PAE is clear"
    yield not state.long and bool(sregs.cr4 & CR4_PCIDE), "EFER.LMA is clear and CR4.PCIDE is set"
    reserved = sregs.efer & ~limits.efer
    yield reserved != 0, f"EFER has reserved bits: {reserved:#x}"
    yield state.long and not state.paging, "EFER.LMA is set and CR0.PG is clear"
    yield state.paging and state.long != bool(sregs.efer & EFER_LME), "CR0.PG is set and EFER.LMA and EFER.LME differ"
    reserved = regs.rflags & _RFLAGS_RESERVED
    yield reserved != 0, f"RFLAGS has reserved bits: {reserved:#x}"
    yield not regs.rflags & RFLAGS_ONE, "RFLAGS has bit 1 clear"
    yield (
        bool(regs.rflags & RFLAGS_VM) and (state.long or not sregs.cr0 & CR0_PE),
        "RFLAGS.VM is set outside protected mode",
    )
    if state.long and sregs.cs.l:
        yield not _canonical(regs.rip), "RIP is not canonical"
    else:
        yield regs.rip >> 32 != 0, "RIP has bits above 31 in code that is not 64-bit code"


def _segments(state: _State) -> Iterator[tuple[bool, str]]:
    """27.3.1.2 and 27.3.1.3."""
    sregs = state.sregs
    if state.regs.rflags & RFLAGS_VM:
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            segment: Segment = getattr(sregs, name)
            found = (segment.limit, segment.type, segment.s, segment.dpl, segment.present)
            wrong = found != _V8086 or segment.base != segment.selector << 4
            yield wrong, f"{name.upper()} is not one of virtual-8086 mode"
    else:
        yield from _code(state)
        yield from _data(state)
    tr, ldt = sregs.tr, sregs.ldt
    yield bool(tr.unusable), "TR is unusable"
    yield bool(tr.selector & _TI), "TR's selector names the LDT"
    yield tr.type != _BUSY_TSS and (state.long or tr.type != 3), f"TR's type is {tr.type}, no busy TSS's"
    yield bool(tr.s) or not tr.present, "TR is no present system segment"
    yield from _extent("TR", tr)
    if not ldt.unusable:
        yield bool(ldt.selector & _TI), "LDTR's selector names the LDT"
        yield ldt.type != _LDT or bool(ldt.s) or not ldt.present, "LDTR is no present LDT"
        yield from _extent("LDTR", ldt)
    for name, segment in (("TR", tr), ("FS", sregs.fs), ("GS", sregs.gs), ("LDTR", ldt)):
        if name in ("FS", "GS") or not segment.unusable:
            yield not _canonical(segment.base), f"{name}'s base is not canonical"
    for name, table in (("GDTR", sregs.gdt), ("IDTR", sregs.idt)):
        yield not _canonical(table.base), f"{name}'s base is not canonical"
        yield table.limit > 0xFFFF, f"{name}'s limit has more than 16 bits"


def _code(state: _State) -> Iterator[tuple[bool, str]]:
    cs, ss = state.sregs.cs, state.sregs.ss
    yield cs.type not in (3, *_CODE_TYPES) or not cs.s or not cs.present, "CS is no present code segment"
    yield cs.base >> 32 != 0, "CS's base has bits above 31"
    yield cs.type == 3 and cs.dpl != 0, "CS is a data segment with a DPL other than 0"
    yield cs.type in (9, 11) and cs.dpl != ss.dpl, "CS's DPL is not SS's"
    yield cs.type in (13, 15) and cs.dpl > ss.dpl, "CS is conforming and its DPL is above SS's"
    yield state.long and bool(cs.l and cs.db), "CS.L and CS.D are both set in long mode"
    yield from _extent("CS", cs)


def _data(state: _State) -> Iterator[tuple[bool, str]]:
    sregs = state.sregs
    yield (not sregs.cr0 & CR0_PE or sregs.cs.type == 3) and sregs.ss.dpl != 0, "SS's DPL is not 0 in real mode"
    for name in ("ss", "ds", "es", "fs", "gs"):
        segment: Segment = getattr(sregs, name)
        if segment.unusable:
            continue
        upper = name.upper()
        yield not segment.s or not segment.present, f"{upper} is no present code or data segment"
        if name == "ss":
            yield segment.type not in _STACK_TYPES, f"SS's type is {segment.type}, no stack's"
        else:
            unread = segment.type & _CODE and not segment.type & _READABLE
            yield bool(unread) or not segment.type & _ACCESSED, f"{upper}'s type is {segment.type}, no accessed data's"
        if name not in ("fs", "gs"):
            yield segment.base >> 32 != 0, f"{upper}'s base has bits above 31"
        yield from _extent(upper, segment)


def _extent(name: str, segment: Segment) -> Iterator[tuple[bool, str]]:
    """Limits that pages count end at a page's end, and those that bytes count have 20 bits."""
    wrong = segment.limit & 0xFFF != 0xFFF if segment.g else segment.limit >> 20 != 0
    yield wrong, f"{name}'s limit {segment.limit:#x} does not go with its granularity"


_GROUPS: Final[tuple[Callable[[_State], Iterator[tuple[bool, str]]], ...]] = (_registers, _segments)


def broken_rules(regs: Regs, sregs: Sregs, limits: Limits) -> list[str]:
    """The rules that level n's registers break, in words; none: it is something else."""
    state = _State(regs, sregs, limits)
    return [words for group in _GROUPS for broken, words in group(state) if broken]

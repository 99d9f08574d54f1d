"""The rules of VM entry: registers that break one are told that one, and sound ones none, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nestvmm.engines.register_bits import cr4_bits, efer_bits
from nestvmm.engines.vmx_rules import Limits, broken_rules
from nestvmm.kvm import CpuidEntry, DescriptorTable, Regs, Segment, Sregs

CR4_PAE_PGE, EFER_LMA_LME = 0xA0, 0x500
LIMITS = Limits(cr4=0x7FF | 1 << 17, efer=0xD01, physical=40)
FLAT = 0xFFFFFFFF
BAD_ADDRESS = 1 << 60


def long_mode() -> tuple[Regs, Sregs]:
    """64-bit code."""
    data = Segment(0, FLAT, 0x18, type=3, present=1, s=1, db=1, g=1)
    sregs = Sregs(cr0=0x80000031, cr3=0x2000, cr4=0x20, efer=0x500)
    sregs.cs = Segment(0, FLAT, 0x10, type=11, present=1, s=1, l=1, g=1)
    for name in ("ss", "ds", "es", "fs", "gs"):
        setattr(sregs, name, Segment(**{field: getattr(data, field) for field in Segment.__match_args__}))
    sregs.tr = Segment(0, 0x67, 0x20, type=11, present=1)
    sregs.ldt = Segment(unusable=1)
    sregs.gdt, sregs.idt = DescriptorTable(0x3000, 0xFF), DescriptorTable(0x4000, 0xFFF)
    return Regs(rip=0x100000, rflags=2), sregs


def real_mode() -> tuple[Regs, Sregs]:
    regs, sregs = long_mode()
    sregs.cr0, sregs.cr4, sregs.efer = 0x30, 0, 0
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        setattr(sregs, name, Segment(0x10000, 0xFFFF, 0x1000, type=3, present=1, s=1))
    return regs, sregs


def virtual_8086() -> tuple[Regs, Sregs]:
    regs, sregs = real_mode()
    sregs.cr0, regs.rflags = 0x31, 2 | 1 << 17
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        getattr(sregs, name).dpl = 3
    return regs, sregs


def change(path: str, value: Any) -> Callable[[Regs, Sregs], None]:
    """Sets `sregs.cs.type` and the like."""

    def break_(regs: Regs, sregs: Sregs) -> None:
        target: Any = {"regs": regs, "sregs": sregs}
        *way, name = path.split(".")
        target = target[way[0]]
        for step in way[1:]:
            target = getattr(target, step)
        setattr(target, name, value)

    return break_


def conforming_above(_: Regs, sregs: Sregs) -> None:
    sregs.cs.type, sregs.cs.dpl = 15, 3


def unpaged(_: Regs, sregs: Sregs) -> None:
    sregs.cr0 &= ~(1 << 31)


def with_ldt(**fields: int) -> Callable[[Regs, Sregs], None]:
    def break_(_: Regs, sregs: Sregs) -> None:
        sregs.ldt = Segment(**{"limit": 0xF, "selector": 0x28, "type": 2, "present": 1, **fields})

    return break_


BREAKS: dict[str, Callable[[Regs, Sregs], None]] = {
    "CR0 has bits above 31": change("sregs.cr0", 1 << 40 | 0x80000031),
    "CR0.PG is set and CR0.PE is clear": change("sregs.cr0", 0x80000030),
    "CR4 has reserved bits: 0x1000": change("sregs.cr4", 0x1020),
    "CR3 lies beyond the last physical address": change("sregs.cr3", 1 << 40),
    "EFER.LMA is set and CR4.PAE is clear": change("sregs.cr4", 0),
    "EFER has reserved bits: 0x2": change("sregs.efer", 0x502),
    "EFER.LMA is set and CR0.PG is clear": unpaged,
    "CR0.PG is set and EFER.LMA and EFER.LME differ": change("sregs.efer", 0x400),
    "RFLAGS has reserved bits: 0x8000": change("regs.rflags", 0x8002),
    "RFLAGS has bit 1 clear": change("regs.rflags", 0),
    "RIP is not canonical": change("regs.rip", BAD_ADDRESS),
    "CS is no present code segment": change("sregs.cs.present", 0),
    "CS's base has bits above 31": change("sregs.cs.base", 1 << 32),
    "CS's DPL is not SS's": change("sregs.cs.dpl", 3),
    "CS is conforming and its DPL is above SS's": conforming_above,
    "CS.L and CS.D are both set in long mode": change("sregs.cs.db", 1),
    "CS's limit 0xfffff000 does not go with its granularity": change("sregs.cs.limit", 0xFFFFF000),
    "SS is no present code or data segment": change("sregs.ss.s", 0),
    "SS's type is 2, no stack's": change("sregs.ss.type", 2),
    "SS's base has bits above 31": change("sregs.ss.base", 1 << 32),
    "DS's type is 9, no accessed data's": change("sregs.ds.type", 9),
    "ES's type is 2, no accessed data's": change("sregs.es.type", 2),
    "ES's limit 0xffffffff does not go with its granularity": change("sregs.es.g", 0),
    "FS's base is not canonical": change("sregs.fs.base", BAD_ADDRESS),
    "TR is unusable": change("sregs.tr.unusable", 1),
    "TR's selector names the LDT": change("sregs.tr.selector", 0x24),
    "TR's type is 9, no busy TSS's": change("sregs.tr.type", 9),
    "TR's type is 3, no busy TSS's": change("sregs.tr.type", 3),
    "TR is no present system segment": change("sregs.tr.s", 1),
    "TR's base is not canonical": change("sregs.tr.base", BAD_ADDRESS),
    "LDTR's selector names the LDT": with_ldt(selector=0x2C),
    "LDTR is no present LDT": with_ldt(present=0),
    "LDTR's base is not canonical": with_ldt(base=BAD_ADDRESS),
    "GDTR's base is not canonical": change("sregs.gdt.base", BAD_ADDRESS),
    "IDTR's limit has more than 16 bits": change("sregs.idt.limit", 0x10000),
}
NARROW: dict[str, Callable[[Regs, Sregs], None]] = {
    "EFER.LMA is clear and CR4.PCIDE is set": change("sregs.cr4", 1 << 17),
    "RIP has bits above 31 in code that is not 64-bit code": change("regs.rip", 1 << 32),
    "SS's DPL is not 0 in real mode": change("sregs.ss.dpl", 1),
    "CS is a data segment with a DPL other than 0": change("sregs.cs.dpl", 1),
    "RFLAGS.VM is set outside protected mode": change("regs.rflags", 2 | 1 << 17),
}


@pytest.mark.parametrize("mode", [long_mode, real_mode, virtual_8086])
def test_sound_registers_break_none(mode: Callable[[], tuple[Regs, Sregs]]) -> None:
    assert broken_rules(*mode(), LIMITS) == []


def test_unusable_segments_break_none() -> None:
    regs, sregs = long_mode()
    for name in ("ss", "ds", "es", "fs", "gs"):
        setattr(sregs, name, Segment(type=9, unusable=1))
    assert broken_rules(regs, sregs, LIMITS) == []


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_of_long_mode_is_told(rule: str) -> None:
    regs, sregs = long_mode()
    BREAKS[rule](regs, sregs)
    assert broken_rules(regs, sregs, LIMITS) == [rule]


@pytest.mark.parametrize("rule", NARROW)
def test_a_broken_rule_of_real_mode_is_told(rule: str) -> None:
    regs, sregs = real_mode()
    NARROW[rule](regs, sregs)
    assert rule in broken_rules(regs, sregs, LIMITS)


@pytest.mark.parametrize("part", ["base", "limit", "dpl"])
def test_segments_of_virtual_8086_mode(part: str) -> None:
    regs, sregs = virtual_8086()
    setattr(sregs.es, part, getattr(sregs.es, part) - 1)
    assert broken_rules(regs, sregs, LIMITS) == ["ES is not one of virtual-8086 mode"]


def test_what_cpuid_shows_may_be_set() -> None:
    entries = [CpuidEntry(function=0x80000001, edx=1 << 20 | 1 << 29), CpuidEntry(function=7, ebx=1 << 20)]
    assert (cr4_bits(entries), efer_bits(entries)) == (0x7FF | 1 << 21, 1 << 8 | 1 << 11)

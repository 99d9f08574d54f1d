from types import SimpleNamespace

import pytest

from nestvmm.x86.state import (
    CODE_SELECTOR,
    DATA_SELECTOR,
    LONG_MODE_GDT,
    PROTECTED_MODE_GDT,
    Entry,
    enter,
    enter_long_mode,
    enter_protected_mode,
    enter_real_mode,
)

SEGMENT_FIELDS = ("base", "limit", "selector", "type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable")
REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")
DATA_SEGMENTS = ("ds", "es", "fs", "gs", "ss")
JUNK = 0xA5


def make_sregs() -> SimpleNamespace:
    """KVM's register set with every field at a value that no mode has."""
    segments = {
        name: SimpleNamespace(**dict.fromkeys(SEGMENT_FIELDS, JUNK)) for name in ("cs", *DATA_SEGMENTS, "tr", "ldt")
    }
    controls = dict.fromkeys(("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base"), JUNK)
    tables = {name: SimpleNamespace(base=JUNK, limit=JUNK) for name in ("gdt", "idt")}
    return SimpleNamespace(**segments, **controls, **tables, interrupt_bitmap=b"\xa5" * 32)


def fields(segment, *names):
    return tuple(getattr(segment, name) for name in names)


def controls(sregs):
    return fields(sregs, "cr0", "cr2", "cr3", "cr4", "cr8", "efer")


def tables(sregs):
    return (sregs.gdt.base, sregs.gdt.limit, sregs.idt.base, sregs.idt.limit)


ALL = ("selector", "base", "limit", "type", "s", "dpl", "present", "avl", "l", "db", "g", "unusable")
BUSY_TSS = (0, 0, 0xFFFF, 11, 0, 0, 1, 0, 0, 0, 0, 0)
NO_LDT = (0, 0, 0xFFFF, 2, 0, 0, 0, 0, 0, 0, 0, 1)
FLAT_DATA = (0x18, 0, 0xFFFFFFFF, 3, 1, 0, 1, 0, 0, 1, 1, 0)


def test_long_mode():
    sregs = make_sregs()
    enter_long_mode(sregs, 0x2000, (0x1010, 31))
    assert fields(sregs.cs, *ALL) == (0x10, 0, 0xFFFFFFFF, 11, 1, 0, 1, 0, 1, 0, 1, 0)
    assert {fields(getattr(sregs, name), *ALL) for name in DATA_SEGMENTS} == {FLAT_DATA}
    assert (fields(sregs.tr, *ALL), fields(sregs.ldt, *ALL)) == (BUSY_TSS, NO_LDT)
    assert controls(sregs) == (0x80000031, 0, 0x2000, 0x20, 0, 0x500)
    assert tables(sregs) == (0x1010, 31, 0, 0)
    assert (sregs.apic_base, sregs.interrupt_bitmap) == (JUNK, b"\xa5" * 32)


def test_protected_mode():
    sregs = make_sregs()
    enter_protected_mode(sregs, (0x1120, 31))
    assert fields(sregs.cs, *ALL) == (0x10, 0, 0xFFFFFFFF, 11, 1, 0, 1, 0, 0, 1, 1, 0)
    assert {fields(getattr(sregs, name), *ALL) for name in DATA_SEGMENTS} == {FLAT_DATA}
    assert (fields(sregs.tr, *ALL), fields(sregs.ldt, *ALL)) == (BUSY_TSS, NO_LDT)
    assert controls(sregs) == (0x31, 0, 0, 0, 0, 0)
    assert tables(sregs) == (0x1120, 31, 0, 0)


@pytest.mark.parametrize("segment", [0, 0x9900, 0xFFFF])
def test_real_mode(segment):
    sregs = make_sregs()
    enter_real_mode(sregs, segment)
    assert fields(sregs.cs, *ALL) == (segment, segment * 16, 0xFFFF, 11, 1, 0, 1, 0, 0, 0, 0, 0)
    assert {fields(getattr(sregs, name), *ALL) for name in DATA_SEGMENTS} == {(0, 0, 0xFFFF, 3, 1, 0, 1, 0, 0, 0, 0, 0)}
    assert (fields(sregs.tr, *ALL), fields(sregs.ldt, *ALL)) == (BUSY_TSS, NO_LDT)
    assert controls(sregs) == (0x30, 0, 0, 0, 0, 0)
    assert tables(sregs) == (0, 0xFFFF, 0, 0x3FF)


def decode(gdt: bytes, selector: int) -> tuple[int, ...]:
    """A code or data descriptor as the hardware expands it (Intel SDM vol. 3, 3.4.5)."""
    raw = int.from_bytes(gdt[selector : selector + 8], "little")
    access, flags = raw >> 40 & 0xFF, raw >> 52 & 0xF
    limit = raw & 0xFFFF | raw >> 32 & 0xF0000
    granular = flags >> 3
    return (
        selector,
        raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000,
        limit << 12 | 0xFFF if granular else limit,
        access & 0xF,
        access >> 4 & 1,
        access >> 5 & 3,
        access >> 7,
        flags & 1,
        flags >> 1 & 1,
        flags >> 2 & 1,
        granular,
        0,
    )


def test_the_hidden_parts_are_what_the_gdt_would_load():
    for gdt, mode in (
        (LONG_MODE_GDT, lambda sregs: enter_long_mode(sregs, 0, (0, 0))),
        (PROTECTED_MODE_GDT, lambda sregs: enter_protected_mode(sregs, (0, 0))),
    ):
        sregs = make_sregs()
        mode(sregs)
        assert len(gdt) == 32
        assert decode(gdt, CODE_SELECTOR) == fields(sregs.cs, *ALL)
        assert decode(gdt, DATA_SELECTOR) == fields(sregs.ss, *ALL)


@pytest.mark.parametrize(
    ("entry", "cr0"),
    [
        (Entry("long", rip=1, rsp=2, rax=3, rbx=4, rsi=5, rdi=6, cr3=7, gdt_base=8, gdt_limit=9), 0x80000031),
        (Entry("protected", rip=1, rsp=2, rax=3, rbx=4, rsi=5, rdi=6, gdt_base=8, gdt_limit=9), 0x31),
        (Entry("real", rip=0x7C00, rsp=0x7C00), 0x30),
    ],
)
def test_an_entry_sets_every_register(entry, cr0):
    regs, sregs = SimpleNamespace(**dict.fromkeys(REGISTERS, JUNK)), make_sregs()
    enter(entry, regs, sregs)
    named = {name: getattr(entry, name) for name in ("rip", "rsp", "rax", "rbx", "rsi", "rdi")}
    assert vars(regs) == dict.fromkeys(REGISTERS, 0) | named | {"rflags": 2}
    assert (sregs.cr0, sregs.cr3) == (cr0, entry.cr3)
    assert (sregs.gdt.base, sregs.gdt.limit) == ((8, 9) if entry.mode != "real" else (0, 0xFFFF))


def test_vm_entry_checks():
    """What VMRUN and VM entry check (AMD APM vol. 2, 15.5.1; Intel SDM vol. 3, 27.3.1.2)."""
    for mode in (lambda s: enter_long_mode(s, 0, (0, 31)), lambda s: enter_protected_mode(s, (0, 31)), enter_real_mode):
        sregs = make_sregs()
        mode(sregs)
        assert sregs.cr0 & 1 << 5, "Intel's fixed CR0 bits want NE"
        assert not sregs.cr0 & 1 << 29, "NW without CD"
        assert not (sregs.cs.l and sregs.cs.db)
        assert sregs.cs.selector & 3 == sregs.ss.selector & 3 == sregs.ss.dpl
        for segment in (sregs.cs, sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.tr):
            assert segment.present
            assert segment.type & 1, "accessed, or a busy TSS"
            assert segment.g == (segment.limit >> 20 != 0)
        assert sregs.tr.type == 11
        assert not sregs.tr.s
        assert not sregs.tr.selector & 4
        assert sregs.ldt.unusable

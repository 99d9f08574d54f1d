"""Task switches by software, over plain bytes: saved, loaded, checked. The labs compare with a processor."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from nestvmm.engines.guest_paging import PageFaultError
from nestvmm.engines.segment import Descriptor
from nestvmm.engines.task_switch import FaultError, Source, TaskSwitch
from nestvmm.kvm import DescriptorTable, Regs, Segment, Sregs

GDT, LDT, OLD, NEW, TOP = 0x1000, 0x1800, 0x2000, 0x3000, 0x9000
CODE, DATA, OLD_TSS, NEW_TSS, LDT_SELECTOR, USER_CODE, USER_DATA, READ_ONLY, ABSENT, OLD_16, CONFORMING = range(
    8, 96, 8
)
TS, NP, SS, GP, PF = 10, 11, 12, 13, 14
EFLAGS_VM, EFLAGS_NT, CR0_TS, CR0_PG = 1 << 17, 1 << 14, 8, 1 << 31
BUSY = 2

FLAT = 0x00CF0000_0000FFFF


def descriptor(access: int, base: int = 0, limit: int | None = None) -> int:
    """Flat, unless there is a limit."""
    if limit is None:
        return FLAT | access << 40
    return access << 40 | (base & 0xFFFFFF) << 16 | base >> 24 << 56 | limit & 0xFFFF | limit >> 16 << 48


class Memory:
    """Linear memory, all of it there but for what `hole` holds."""

    def __init__(self) -> None:
        self.data = bytearray(0x10000)
        self.hole = range(0)

    def read(self, sregs: Sregs, linear: int, size: int) -> bytes:
        self._check(linear, size, 0)
        return bytes(self.data[linear : linear + size])

    def write(self, sregs: Sregs, linear: int, data: bytes) -> None:
        self._check(linear, len(data), 2)
        self.data[linear : linear + len(data)] = data

    def _check(self, linear: int, size: int, error_code: int) -> None:
        if linear in self.hole or linear + size - 1 in self.hole:
            raise PageFaultError(linear, error_code)

    def put(self, at: int, word: int) -> None:
        self.data[at : at + 8] = struct.pack("<Q", word)

    def words(self, at: int, count: int) -> list[int]:
        return list(struct.unpack_from(f"<{count}I", self.data, at))


class Machine:
    """An old task at CPL 0 in a TSS of 32 bits, and a new one that can be spoiled."""

    def __init__(self) -> None:
        self.memory = Memory()
        for selector, word in {
            CODE: descriptor(0x9A),
            DATA: descriptor(0x92),
            OLD_TSS: descriptor(0x8B, OLD, 0x67),
            NEW_TSS: descriptor(0x89, NEW, 0x67),
            LDT_SELECTOR: descriptor(0x82, LDT, 0xF),
            USER_CODE: descriptor(0xFA),
            USER_DATA: descriptor(0xF2),
            READ_ONLY: descriptor(0x90),
            ABSENT: descriptor(0x12),
            OLD_16: descriptor(0x83, OLD, 0x2B),
            CONFORMING: descriptor(0x9E),
        }.items():
            self.memory.put(GDT + selector, word)
        self.memory.put(LDT + 8, descriptor(0x92))
        self.task = [0] * 26
        self.set(eip=0x4000, eflags=0x1202, esp=TOP, cs=CODE, ss=DATA, ds=DATA, es=DATA)
        self.regs = Regs(rax=1, rcx=2, rdx=3, rbx=4, rsp=5, rbp=6, rsi=7, rdi=8, rip=0x111, rflags=0x246 | EFLAGS_NT)
        segment = Descriptor.unpack(struct.pack("<Q", descriptor(0x93))).segment(DATA)
        code = Descriptor.unpack(struct.pack("<Q", descriptor(0x9B))).segment(CODE)
        self.sregs = Sregs(cs=code, ss=segment, ds=segment, es=segment, gdt=DescriptorTable(GDT, 0x7F), cr0=0x11)
        self.sregs.tr = Segment(base=OLD, limit=0x67, selector=OLD_TSS, type=11, present=1)
        self.sregs.ldt = Segment(unusable=1)
        self.selector, self.source, self.error_code = NEW_TSS, Source.JMP, None

    def set(self, **values: int) -> None:
        """Words of the new TSS."""
        names = ("cr3", "eip", "eflags", "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
        names += ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "maps")
        for name, value in values.items():
            self.task[7 + names.index(name)] = value

    def describe(self, selector: int, word: int) -> None:
        self.memory.put(GDT + selector, word)

    def switch(self) -> TaskSwitch:
        if not any(self.memory.data[NEW : NEW + 104]):
            self.memory.data[NEW : NEW + 104] = struct.pack("<26I", *self.task)
        return TaskSwitch(
            self.memory,
            self.regs,
            self.sregs,
            selector=self.selector,
            source=self.source,
            next_rip=0x118,
            error_code=self.error_code,
        )

    def run(self) -> TaskSwitch:
        switch = self.switch()
        switch.leave()
        switch.enter()
        return switch

    def type_of(self, selector: int) -> int:
        return self.memory.data[GDT + selector + 5] & 15


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_jump_saves_the_old_task_and_loads_the_new_one(machine: Machine) -> None:
    machine.set(eax=11, ecx=12, edx=13, ebx=14, ebp=16, esi=17, edi=18, fs=DATA, gs=3)
    switch = machine.run()
    saved = machine.memory.words(OLD, 26)
    assert saved[8:18] == [0x118, 0x246 | EFLAGS_NT, 1, 2, 3, 4, 5, 6, 7, 8]
    assert saved[18:24] == [DATA, CODE, DATA, DATA, 0, 0]
    assert saved[:8] + saved[24:] == [0] * 10
    regs, sregs = machine.regs, machine.sregs
    assert (regs.rax, regs.rcx, regs.rdx, regs.rbx) == (11, 12, 13, 14)
    assert (regs.rsp, regs.rbp, regs.rsi, regs.rdi) == (TOP, 16, 17, 18)
    assert (regs.rip, regs.rflags, sregs.cr0) == (0x4000, 0x1202, 0x11 | CR0_TS)
    assert sregs.tr == Segment(base=NEW, limit=0x67, selector=NEW_TSS, type=11, present=1)
    assert (machine.type_of(OLD_TSS), machine.type_of(NEW_TSS)) == (9, 11)
    assert sregs.ss == Segment(limit=0xFFFFFFFF, selector=DATA, type=3, s=1, present=1, db=1, g=1)
    assert (sregs.cs.type, sregs.gs.selector, sregs.gs.unusable, sregs.ldt.unusable) == (11, 3, 1, 1)
    assert (machine.type_of(CODE), machine.type_of(DATA)) == (11, 3)
    assert (switch.left, switch.traps) == (True, False)


@pytest.mark.parametrize("source", [Source.CALL, Source.GATE])
def test_a_call_nests(machine: Machine, source: Source) -> None:
    machine.source = source
    machine.run()
    assert machine.memory.words(NEW, 1) == [OLD_TSS]
    assert machine.regs.rflags == 0x1202 | EFLAGS_NT
    assert (machine.type_of(OLD_TSS), machine.type_of(NEW_TSS)) == (11, 11)


def test_a_return_ends_nesting(machine: Machine) -> None:
    machine.source = Source.IRET
    machine.describe(NEW_TSS, descriptor(0x8B, NEW, 0x67))
    machine.run()
    assert machine.memory.words(OLD, 26)[9] == 0x246
    assert (machine.type_of(OLD_TSS), machine.type_of(NEW_TSS), machine.regs.rflags) == (9, 11, 0x1202)


def test_an_old_task_of_16_bits(machine: Machine) -> None:
    machine.sregs.tr = Segment(base=OLD, limit=0x2B, selector=OLD_16, type=3, present=1)
    machine.regs.rax = 0x12345678
    machine.run()
    saved = struct.unpack_from("<22H", machine.memory.data, OLD)
    assert saved == (*[0] * 7, 0x118, 0x246 | EFLAGS_NT, 0x5678, 2, 3, 4, 5, 6, 7, 8, DATA, CODE, DATA, DATA, 0)
    assert machine.type_of(OLD_16) == 1


def test_a_new_task_of_16_bits(machine: Machine) -> None:
    words = [0] * 7 + [0x4000, 0x202, *range(0x11, 0x19), DATA, CODE, DATA, DATA, LDT_SELECTOR]
    machine.memory.data[NEW : NEW + 44] = struct.pack("<22H", *words)
    machine.describe(NEW_TSS, descriptor(0x81, NEW, 0x2B))
    machine.sregs.cr0 |= CR0_PG
    machine.sregs.cr3 = 0x7000
    machine.run()
    regs, sregs = machine.regs, machine.sregs
    assert (regs.rip, regs.rflags, regs.rax, regs.rdi) == (0x4000, 0x202, 0x11, 0x18)
    assert (sregs.tr.type, sregs.cr3, sregs.fs.unusable) == (3, 0x7000, 1)
    assert sregs.ldt == Segment(base=LDT, limit=0xF, selector=LDT_SELECTOR, type=2, present=1)


def test_cr3_counts_with_paging_alone(machine: Machine) -> None:
    machine.set(cr3=0x5000)
    machine.run()
    assert machine.sregs.cr3 == 0
    paged = Machine()
    paged.set(cr3=0x5000)
    paged.sregs.cr0 |= CR0_PG
    paged.run()
    assert paged.sregs.cr3 == 0x5000


def test_a_virtual_8086_task(machine: Machine) -> None:
    machine.set(eflags=EFLAGS_VM | 0x202, cs=0x1234, ss=0x2345, gs=0xFFFF)
    machine.run()
    flat = {"limit": 0xFFFF, "type": 3, "s": 1, "dpl": 3, "present": 1}
    assert machine.sregs.cs == Segment(base=0x12340, selector=0x1234, **flat)
    assert machine.sregs.ss == Segment(base=0x23450, selector=0x2345, **flat)
    assert machine.sregs.gs == Segment(base=0xFFFF0, selector=0xFFFF, **flat)


def test_a_task_of_cpl_3_with_data_of_its_ldt(machine: Machine) -> None:
    machine.set(cs=USER_CODE | 3, ss=USER_DATA | 3, ds=USER_DATA | 3, es=0, ldt=LDT_SELECTOR)
    machine.memory.put(LDT + 8, descriptor(0xF2))
    machine.set(fs=8 | 4 | 3)
    machine.run()
    sregs = machine.sregs
    assert (sregs.cs.dpl, sregs.ss.dpl, sregs.fs.selector, sregs.fs.dpl, sregs.fs.unusable) == (3, 3, 15, 3, 0)
    assert machine.memory.data[LDT + 8 + 5] & 1


def test_reserved_flags_stay_clear(machine: Machine) -> None:
    machine.set(eflags=0xFFFFFFFF & ~EFLAGS_VM)
    machine.run()
    assert machine.regs.rflags == 0x3D7FD7


def test_the_debug_trap_is_asked_for(machine: Machine) -> None:
    machine.set(maps=0x68 << 16 | 1)
    assert machine.run().traps


@pytest.mark.parametrize(("db", "top"), [(1, TOP - 4), (0, TOP - 4)])
def test_an_error_code_is_pushed(machine: Machine, db: int, top: int) -> None:
    machine.source, machine.error_code = Source.GATE, 0xF0
    machine.describe(DATA, descriptor(0x92) & ~(1 << 54) | db << 54)
    machine.set(esp=TOP | 0x10000 * (1 - db))
    machine.run()
    assert machine.memory.words(top, 1) == [0xF0]
    assert machine.regs.rsp == top | 0x10000 * (1 - db)


# How each check fails: what is spoiled, then vector and error code. Those of the old task come first.
OLD_TASKS_FAULTS: dict[str, tuple[Callable[[Machine], object], tuple[int, int]]] = {
    "of the LDT": (lambda m: setattr(m, "selector", NEW_TSS | 4), (GP, NEW_TSS | 4)),
    "null": (lambda m: setattr(m, "selector", 3), (GP, 0)),
    "beyond the GDT": (lambda m: setattr(m, "selector", 0x80), (GP, 0x80)),
    "no TSS": (lambda m: setattr(m, "selector", DATA), (GP, DATA)),
    "busy": (lambda m: m.describe(NEW_TSS, descriptor(0x8B, NEW, 0x67)), (GP, NEW_TSS)),
    "absent": (lambda m: m.describe(NEW_TSS, descriptor(0x09, NEW, 0x67)), (NP, NEW_TSS)),
    "short": (lambda m: m.describe(NEW_TSS, descriptor(0x89, NEW, 0x66)), (TS, NEW_TSS)),
    "short, of 16 bits": (lambda m: m.describe(NEW_TSS, descriptor(0x81, NEW, 0x2A)), (TS, NEW_TSS)),
    "gate, no TSS": (lambda m: (setattr(m, "source", Source.GATE), setattr(m, "selector", DATA)), (TS, DATA)),
    "return, not busy": (lambda m: setattr(m, "source", Source.IRET), (TS, NEW_TSS)),
}
NEW_TASKS_FAULTS: dict[str, tuple[dict[str, int], tuple[int, int]]] = {
    "LDT of an LDT": ({"ldt": 12}, (TS, 12)),
    "LDT that is data": ({"ldt": DATA}, (TS, DATA)),
    "null CS": ({"cs": 0}, (TS, 0)),
    "CS that is data": ({"cs": DATA}, (TS, DATA)),
    "CS of another privilege": ({"cs": USER_CODE}, (TS, USER_CODE)),
    "null SS": ({"ss": 0}, (TS, 0)),
    "SS read-only": ({"ss": READ_ONLY}, (TS, READ_ONLY)),
    "SS that is code": ({"ss": CODE}, (TS, CODE)),
    "SS of another privilege": ({"ss": USER_DATA}, (TS, USER_DATA)),
    "SS absent": ({"ss": ABSENT}, (SS, ABSENT)),
    "DS absent": ({"ds": ABSENT}, (NP, ABSENT)),
    "DS of more privilege": ({"ds": DATA | 3}, (TS, DATA)),
    "DS beyond the GDT": ({"ds": 0x88}, (TS, 0x88)),
    "DS without an LDT": ({"ds": 12}, (TS, 12)),
    "GS that is a TSS": ({"gs": OLD_TSS}, (TS, OLD_TSS)),
}


@pytest.mark.parametrize("name", OLD_TASKS_FAULTS)
def test_a_fault_of_the_old_task_changes_nothing(machine: Machine, name: str) -> None:
    spoil, expected = OLD_TASKS_FAULTS[name]
    switch = machine.switch()
    spoil(machine)
    switch = machine.switch()
    before = bytes(machine.memory.data), repr(machine.regs), repr(machine.sregs)
    with pytest.raises(FaultError) as fault:
        switch.leave()
    assert (fault.value.vector, fault.value.error_code, switch.left) == (*expected, False)
    assert (bytes(machine.memory.data), repr(machine.regs), repr(machine.sregs)) == before


@pytest.mark.parametrize("name", NEW_TASKS_FAULTS)
def test_a_fault_of_the_new_task_finds_it_there(machine: Machine, name: str) -> None:
    words, expected = NEW_TASKS_FAULTS[name]
    machine.set(**words)
    switch = machine.switch()
    switch.leave()
    with pytest.raises(FaultError) as fault:
        switch.enter()
    assert (fault.value.vector, fault.value.error_code, switch.left) == (*expected, True)
    assert (machine.regs.rip, machine.sregs.tr.selector, machine.sregs.fs.unusable) == (0x4000, NEW_TSS, 1)


def test_conforming_code_and_data_by_it(machine: Machine) -> None:
    machine.set(cs=CONFORMING | 3, ss=USER_DATA | 3, ds=CONFORMING | 3, es=0)
    machine.run()
    assert (machine.sregs.cs.selector, machine.sregs.ds.selector) == (CONFORMING | 3, CONFORMING | 3)


def test_eip_beyond_the_segment(machine: Machine) -> None:
    machine.describe(CODE, descriptor(0x9A, 0, 0x3FFF))
    switch = machine.switch()
    switch.leave()
    with pytest.raises(FaultError) as fault:
        switch.enter()
    assert (fault.value.vector, fault.value.error_code) == (GP, 0)


@pytest.mark.parametrize(("hole", "left", "error_code"), [(NEW, False, 0), (OLD, False, 2), (TOP - 4, True, 2)])
def test_page_faults(machine: Machine, hole: int, left: bool, error_code: int) -> None:
    machine.source, machine.error_code = Source.GATE, 0xF0
    switch = machine.switch()
    machine.memory.hole = range(hole, hole + 0x40)

    def run() -> None:
        switch.leave()
        switch.enter()

    with pytest.raises(PageFaultError) as fault:
        run()
    assert (fault.value.address - hole < 0x40, fault.value.error_code, switch.left) == (True, error_code, left)

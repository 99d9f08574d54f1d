"""Pages of a level above an image as L0 remembers them: they are what its tables say, and no longer than these do."""

from __future__ import annotations

import pytest
from nested_world import PAGE, PAGES, World, sound, world

from nestvmm._native import ffi, lib

NPT, CODE, SPARE = 8 * PAGE, 4 * PAGE, 5 * PAGE
WRITABLE, READABLE, MARKED = 7, 5, 0x60  # of an entry: its rights; accessed and dirty
NESTED_PAGING, NESTED_CR3, TLB_CONTROL = 0x90, 0xB0, 0x5C
FLUSHES = (1, 3)  # all, and the guest's ASID
HLT = 0x78
RIGHTS = 7  # of a range


class Guest:
    """Level 2, on level 1's nested page tables: each page leads to itself, of 4 KiB each."""

    def __init__(self) -> None:
        self.world: World = world()
        self.keep: list[object] = []
        for table in range(3):
            self.put(NPT + table * PAGE, NPT + (table + 1) * PAGE | WRITABLE)
        for page in range(PAGES):
            self.lead(page * PAGE, page * PAGE)
        for page in (CODE, SPARE):
            ffi.memmove(self.world.level + page, bytes([page // PAGE]) * PAGE, PAGE)
        self.run()

    def put(self, at: int, entry: int) -> None:
        ffi.cast("uint64_t *", self.world.level + at)[0] = entry

    def lead(self, page: int, to: int, rights: int = WRITABLE) -> None:
        """Level 1 changes its tables, and says nothing."""
        self.put(NPT + 3 * PAGE + page // PAGE * 8, to | rights | MARKED)

    def run(self, tlb_control: int = 0) -> None:
        block = sound()
        block[NESTED_PAGING], block[TLB_CONTROL] = 1, tlb_control
        block[NESTED_CR3 : NESTED_CR3 + 8] = NPT.to_bytes(8, "little")
        self.world.run(bytes(block))
        assert self.world.nested.active.depth == 1

    def stop(self) -> None:
        """An exit: level 1 goes on."""
        due = self.world.nested.due
        due.to, due.exit.code = self.world.nested.machines, HLT
        lib.nv_nested_settle(self.world.nested)
        assert self.world.nested.active.depth == 0

    def give(self, *ranges: tuple[int, int, int, int]) -> None:
        """A Python level between gives this: first, last, where that leads, rights."""
        array = ffi.new("struct nv_shadow_range[]", [(*one, 0) for one in ranges])
        self.keep.append(array)
        lib.nv_nested_give(self.world.nested, 1, array, len(ranges), 1)

    def read(self, address: int) -> int | None:
        data = ffi.new("uint8_t[1]")
        return data[0] if lib.nv_nested_copy(self.world.nested, 1, address, data, 1, 0, 0) else None

    def write(self, address: int, byte: int) -> bool:
        return bool(lib.nv_nested_copy(self.world.nested, 1, address, ffi.new("uint8_t[]", [byte]), 1, 1, 0))


@pytest.mark.parametrize("flush", FLUSHES)
def test_a_page_leads_elsewhere_after_a_flush(flush: int) -> None:
    guest = Guest()
    assert (guest.read(CODE + 8), guest.read(SPARE + 8)) == (4, 5)
    guest.stop()
    guest.lead(CODE, SPARE)
    guest.run(flush)
    assert (guest.read(CODE + 8), guest.read(SPARE + 8)) == (5, 5)


@pytest.mark.parametrize("flush", FLUSHES)
def test_a_page_that_could_be_written_cannot_after_a_flush(flush: int) -> None:
    guest = Guest()
    assert guest.write(CODE, 0x77)
    guest.stop()
    guest.lead(CODE, CODE, READABLE)
    guest.run(flush)
    assert (guest.write(CODE, 0x99), guest.read(CODE)) == (False, 0x77)
    guest.stop()
    guest.lead(CODE, CODE, 0)
    guest.run(flush)
    assert (guest.write(CODE, 0x99), guest.read(CODE)) == (False, None)


def test_rights_that_a_page_gains_need_no_flush() -> None:
    guest = Guest()
    guest.stop()
    guest.lead(CODE, CODE, READABLE)
    guest.run(FLUSHES[0])
    assert (guest.read(CODE), guest.write(CODE, 0x99)) == (4, False)
    guest.stop()
    guest.lead(CODE, CODE)
    guest.run()
    assert (guest.write(CODE, 0x99), guest.read(CODE)) == (True, 0x99)


def test_what_a_python_level_takes_away_is_gone_at_once() -> None:
    guest = Guest()
    assert (guest.write(CODE, 0x77), guest.read(CODE)) == (True, 0x77)
    last = PAGES * PAGE - 1
    guest.give((0, CODE - 1, 0, RIGHTS), (CODE, CODE + PAGE - 1, SPARE, RIGHTS), (SPARE, last, SPARE, RIGHTS))
    assert (guest.read(CODE), guest.write(CODE, 0x66), guest.read(SPARE)) == (5, True, 0x66)
    guest.give((0, CODE - 1, 0, RIGHTS), (SPARE, last, SPARE, RIGHTS))
    assert (guest.read(CODE), guest.write(CODE, 0x55), guest.read(SPARE)) == (None, False, 0x66)

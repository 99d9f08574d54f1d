"""The page walk over tables in small memories."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nestvmm.engines.guest_paging import Access, GuestPaging, PageFaultError, UnbackedError, physical_bits
from nestvmm.kvm import CpuidEntry, HostMemory, Sregs
from nestvmm.nesting.memory import Slot

P, W, U, A, D, PS, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
PG, WP = 1 << 31, 1 << 16
PSE, PAE, LA57, SMEP, SMAP = 1 << 4, 1 << 5, 1 << 12, 1 << 20, 1 << 21
LMA, NXE = 1 << 10, 1 << 11
READ, WRITE, FETCH = Access.READ, Access.WRITE, Access.FETCH


SIZE = 0x9000


class Tables:
    """A memory of SIZE bytes at address 0 with these entries by physical address, `width` bytes each."""

    def __init__(self, entries: dict[int, int], width: int = 8, slots: Sequence[Slot] | None = None) -> None:
        self.places = list(entries)
        self._width = width
        self._memory = HostMemory(SIZE)
        self._slots = slots or [Slot(0, SIZE, 0, False)]
        for place, entry in entries.items():
            self._memory.write(place, entry.to_bytes(width, "little"))

    @property
    def entries(self) -> dict[int, int]:
        return {place: int.from_bytes(self._memory.read(place, self._width), "little") for place in self.places}

    def translate(
        self, sregs: Sregs, linear: int, access: Access, *, user: bool = False, ac: bool = False, bits: int = 52
    ) -> int:
        paging = GuestPaging(self._memory, self._slots)
        paging.set_cpuid([CpuidEntry(function=0x80000008, eax=bits)])
        return paging.translate(sregs, linear, access, user=user, ac=ac)


def long_tables(leaf: int, upper: int = P | W | U) -> Tables:
    """Four levels that map linear 0x8080604000 (indices 1, 2, 3, 4) by `leaf`."""
    return Tables({0x1008: 0x2000 | upper, 0x2010: 0x3000 | upper, 0x3018: 0x4000 | upper, 0x4020: leaf})


LINEAR = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x123


def long_sregs(cr0: int = PG, cr4: int = PAE, efer: int = LMA | NXE) -> Sregs:
    return Sregs(cr0=cr0, cr3=0x1000, cr4=cr4, efer=efer)


def test_without_paging_an_address_is_its_own() -> None:
    assert Tables({}).translate(Sregs(), 0x123456789, READ) == 0x23456789


def test_four_levels_and_their_accessed_and_dirty_bits() -> None:
    tables = long_tables(0xABC000 | P | W)
    assert tables.translate(long_sregs(), LINEAR, READ) == 0xABC123
    assert tables.entries == {
        0x1008: 0x2000 | P | W | U | A,
        0x2010: 0x3000 | P | W | U | A,
        0x3018: 0x4000 | P | W | U | A,
        0x4020: 0xABC000 | P | W | A,
    }
    tables.translate(long_sregs(), LINEAR, WRITE)
    assert tables.entries[0x4020] == 0xABC000 | P | W | A | D
    assert tables.entries[0x3018] == 0x4000 | P | W | U | A


def test_five_levels() -> None:
    tables = Tables({0x8018: 0x1000 | P | W, **long_tables(0xABC000 | P).entries})
    sregs = Sregs(cr0=PG, cr3=0x8000, cr4=PAE | LA57, efer=LMA)
    assert tables.translate(sregs, 3 << 48 | LINEAR, READ) == 0xABC123


def test_large_pages() -> None:
    two = Tables({0x1008: 0x2003, 0x2010: 0x3003, 0x3018: 0x600000 | P | PS})
    assert two.translate(long_sregs(), LINEAR, READ) == 0x604123
    one = Tables({0x1008: 0x2003, 0x2010: 0x40000000 | P | PS})
    assert one.translate(long_sregs(), LINEAR, READ) == 0x40604123


def test_pae() -> None:
    tables = Tables({0x1008: 0x2000 | P, 0x2010: 0x3003, 0x3018: 0xABC000 | P})
    sregs = Sregs(cr0=PG, cr3=0x1000, cr4=PAE)
    assert tables.translate(sregs, 1 << 30 | 2 << 21 | 3 << 12 | 5, READ) == 0xABC005
    assert tables.entries[0x1008] == 0x2000 | P, "the top has no accessed bit"


def test_two_levels() -> None:
    tables = Tables({0x1004: 0x2003, 0x2008: 0xABC001, 0x100C: 0xC00000 | 1 << 13 | P | PS}, 4)
    sregs = Sregs(cr0=PG, cr3=0x1000, cr4=PSE)
    assert tables.translate(sregs, 1 << 22 | 2 << 12 | 5, READ) == 0xABC005
    assert tables.translate(sregs, 3 << 22 | 0x12345, READ) == 1 << 32 | 0xC12345


@pytest.mark.parametrize(
    ("leaf", "upper", "access", "user", "cr0", "cr4", "efer", "code"),
    [
        (0, P | W | U, READ, False, 0, 0, NXE, 0),
        (0, P | W | U, WRITE, False, 0, 0, NXE, 2),
        (0, P | W | U, WRITE, True, 0, 0, NXE, 6),
        (0, P | W | U, FETCH, False, 0, 0, NXE, 0x10),
        (0, P | W | U, FETCH, False, 0, 0, 0, 0),
        (0, P | W | U, FETCH, False, 0, SMEP, 0, 0x10),
        (P, P | W | U, WRITE, False, WP, 0, NXE, 3),
        (P, P | W | U, WRITE, False, 0, 0, NXE, None),
        (P | U, P | W | U, WRITE, True, 0, 0, NXE, 7),
        (P | W, P | W | U, READ, True, 0, 0, NXE, 5),
        (P | W | U, P | W, READ, True, 0, 0, NXE, 5),
        (P | W | U, P | U, WRITE, False, WP, 0, NXE, 3),
        (P | NX, P | W | U, FETCH, False, 0, 0, NXE, 0x11),
        (P | NX, P | W | U, READ, False, 0, 0, NXE, None),
        (P | NX, P | W | U, READ, False, 0, 0, 0, 9),
        (P | 1 << 51, P | W | U, READ, False, 0, 0, NXE, 9),
        (P | U, P | W | U, FETCH, False, 0, SMEP, NXE, 0x11),
        (P | U | W, P | W | U, READ, False, 0, SMAP, NXE, 1),
        (P | U | W, P | W | U, WRITE, False, 0, SMAP, NXE, 3),
    ],
)
def test_error_codes(
    leaf: int, upper: int, access: Access, user: bool, cr0: int, cr4: int, efer: int, code: int | None
) -> None:
    tables = long_tables(leaf | 0xABC000, upper)
    before = dict(tables.entries)
    sregs = long_sregs(PG | cr0, PAE | cr4, LMA | efer)
    if code is None:
        assert tables.translate(sregs, LINEAR, access, user=user, bits=48) == 0xABC123
        return
    with pytest.raises(PageFaultError) as caught:
        tables.translate(sregs, LINEAR, access, user=user, bits=48)
    assert (caught.value.address, caught.value.error_code) == (LINEAR, code)
    assert tables.entries == before, "a fault marks nothing"


def test_ac_lifts_smap() -> None:
    sregs = long_sregs(cr4=PAE | SMAP)
    assert long_tables(0xABC000 | P | U).translate(sregs, LINEAR, READ, ac=True) == 0xABC123


def test_reserved_bits_of_large_pages() -> None:
    tables = Tables({0x1008: 0x2003, 0x2010: 0x3003, 0x3018: 0x600000 | 1 << 13 | P | PS})
    with pytest.raises(PageFaultError) as caught:
        tables.translate(long_sregs(), LINEAR, READ)
    assert caught.value.error_code == 9


@pytest.mark.parametrize(("cr4", "code"), [(0, 0), (SMEP, 0x10)])
def test_two_levels_have_no_fetch_bit_without_smep(cr4: int, code: int) -> None:
    """NXE does nothing without PAE."""
    with pytest.raises(PageFaultError) as caught:
        Tables({}).translate(Sregs(cr0=PG, cr3=0x1000, cr4=cr4, efer=NXE), 0, FETCH)
    assert caught.value.error_code == code


@pytest.mark.parametrize("bit", [52, 58, 62])
def test_paes_high_bits_are_reserved(bit: int) -> None:
    tables = Tables({0x1000: 0x2000 | P, 0x2000: 0x3003 | 1 << bit})
    with pytest.raises(PageFaultError) as caught:
        tables.translate(Sregs(cr0=PG, cr3=0x1000, cr4=PAE), 0, READ)
    assert caught.value.error_code == 9


def test_tables_outside_of_memory() -> None:
    for top in (SIZE, 1 << 40):
        with pytest.raises(UnbackedError, match="the page tables of linear address 0x8080604123 reach outside"):
            Tables({}).translate(Sregs(cr0=PG, cr3=top, cr4=PAE, efer=LMA), LINEAR, READ)


def test_tables_that_their_level_may_not_write_stay_as_they_are() -> None:
    entries = long_tables(0xABC000 | P | W).entries
    slots = [Slot(0, 0x3000, 0, False), Slot(0x3000, 0x2000, 0x3000, True), Slot(0x5000, SIZE - 0x5000, 0x5000, False)]
    tables = Tables(entries, slots=slots)
    assert tables.translate(long_sregs(), LINEAR, WRITE) == 0xABC123
    assert tables.entries == {**entries, 0x1008: entries[0x1008] | A, 0x2010: entries[0x2010] | A}


@pytest.mark.parametrize(("eax", "bits"), [(0x3030, 48), (0x3934, 52), (0, 36), (53, 36), (31, 36)])
def test_the_width_of_physical_addresses(eax: int, bits: int) -> None:
    assert physical_bits([CpuidEntry(function=0x80000008, eax=eax)]) == bits
    assert physical_bits([]) == 36


def fetched(tables: Tables, sregs: Sregs, linear: int, size: int, *, user: bool = False) -> bytes:
    paging = GuestPaging(tables._memory, tables._slots)
    paging.set_cpuid([CpuidEntry(function=0x80000008, eax=52)])
    return paging.fetch(sregs, linear, size, user=user)


def test_code_is_fetched_as_far_as_it_is_mapped() -> None:
    """The page behind this one has no entry."""
    tables = long_tables(0x5000 | P | W | U)
    tables._memory.write(0x5FF8, b"\x01\x02\x03\x04\x05\x06\x07\x08")
    linear = (LINEAR & ~0xFFF) + 0xFFC
    assert fetched(tables, long_sregs(), linear, 15) == b"\x05\x06\x07\x08"
    assert fetched(tables, long_sregs(), linear, 2) == b"\x05\x06"
    assert fetched(tables, long_sregs(), linear + 4, 15) == b""


def test_code_over_two_pages() -> None:
    tables = Tables({})
    tables._memory.write(0x0FFE, b"\x01\x02\x03\x04")
    assert fetched(tables, Sregs(), 0x0FFE, 4) == b"\x01\x02\x03\x04"


def test_code_that_the_processor_could_not_fetch() -> None:
    assert fetched(long_tables(0x5000 | P | W | U | NX), long_sregs(), LINEAR, 4) == b""
    assert fetched(long_tables(0x5000 | P | W), long_sregs(), LINEAR, 4, user=True) == b""
    assert fetched(Tables({}), Sregs(), SIZE, 4) == b""


@pytest.mark.parametrize("linear", [(1 << 64) - 1, 1 << 63, 1 << 47, (1 << 64) - 8])
def test_code_at_the_ends_of_the_address_space(linear: int) -> None:
    assert fetched(long_tables(0x5000 | P), long_sregs(), linear, 15) == b""

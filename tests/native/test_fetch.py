"""Level n's code as C reads it: bits of the code segment, its base, the ends of pages and of memory."""

from __future__ import annotations

from typing import Any

import pytest

from nestvmm._native import ffi, lib
from nestvmm.engines import GuestPaging
from nestvmm.kvm import HostMemory
from nestvmm.nesting.memory import Slot

SIZE = 0x8000
PG, PAE, LMA, NXE = 1 << 31, 1 << 5, 1 << 10, 1 << 11
P, W, U, NX = 1, 2, 4, 1 << 63
TOP, TABLE = 0x1000, 0x4000
LONG = {"cr0": PG, "cr3": TOP, "cr4": PAE, "efer": LMA | NXE, "bits": 64}


class Machine:
    """SIZE bytes of memory at address 0, and tables that map linear page n by `entries[n]`."""

    def __init__(self, entries: list[int], content: dict[int, bytes]) -> None:
        self._memory = HostMemory(SIZE)
        upper = {TOP: 0x2000 | P | W | U, 0x2000: 0x3000 | P | W | U, 0x3000: TABLE | P | W | U}
        for address, entry in (upper | {TABLE + 8 * number: entry for number, entry in enumerate(entries)}).items():
            self._memory.write(address, entry.to_bytes(8, "little"))
        for address, data in content.items():
            self._memory.write(address, data)
        self.paging = GuestPaging(self._memory, [Slot(0, SIZE, 0, False)])
        self.event: Any = ffi.new("struct nv_event *")

    def instruction(self, rip: int, **state: int) -> tuple[int, str]:
        """Its length, and the event's bytes."""
        code = ffi.new("struct nv_code *", {**LONG, **state, "rip": rip})
        return lib.nv_fetch_instruction(self.paging.c, code, self.event), self._bytes()

    def bytes(self, rip: int, **state: int) -> str:
        lib.nv_fetch_bytes(self.paging.c, ffi.new("struct nv_code *", {**LONG, **state, "rip": rip}), self.event)
        return self._bytes()

    def _bytes(self) -> str:
        return bytes(ffi.buffer(self.event.instruction, self.event.instruction_length)).hex()

    def read(self, address: int, size: int) -> bytes:
        return self._memory.read(address, size)

    def accessed(self, page: int) -> bool:
        return bool(self._memory.read(TABLE + 8 * page, 1)[0] & 0x20)


def test_an_instruction_is_cut_at_its_end() -> None:
    machine = Machine([0x5000 | P], {0x5010: b"\x66\x0f\xa2" + b"\x90" * 20})
    assert machine.instruction(0x10) == (3, "660fa2")


def test_what_cannot_be_intercepted_leaves_its_bytes() -> None:
    machine = Machine([0x5000 | P], {0x5010: b"\x0f\x0b" + b"\x90" * 20})
    assert machine.instruction(0x10) == (0, "0f0b" + "90" * 13)
    assert machine.bytes(0x10) == "0f0b" + "90" * 13


def test_the_next_page_is_looked_at_only_when_the_instruction_goes_on_there() -> None:
    machine = Machine([0x6000 | P, 0x5000 | P], {0x6FFE: b"\x0f\xa2", 0x5000: b"\xa2\xf4"})
    assert machine.instruction(0xFFE) == (2, "0fa2")
    assert (machine.accessed(0), machine.accessed(1)) == (True, False)
    assert Machine([0x6000 | P, 0x5000 | P], {0x6FFF: b"\x0f", 0x5000: b"\xa2\xf4"}).instruction(0xFFF) == (2, "0fa2")


@pytest.mark.parametrize("absent", [0, 0x5000, 0x5000 | P | NX, 0x80000000 | P])
def test_a_page_that_cannot_be_fetched(absent: int) -> None:
    machine = Machine([0x6000 | P, absent], {0x6FFF: b"\x0f", 0x5000: b"\xa2"})
    assert machine.instruction(0xFFF) == (0, "0f")
    assert machine.bytes(0xFFF) == "0f"
    assert machine.instruction(0x1000) == (0, "")
    assert machine.bytes(0x1000) == ""


@pytest.mark.parametrize(("user", "expected"), [(0, (2, "0fa2")), (1, (0, ""))])
def test_the_level_of_privilege(user: int, expected: tuple[int, str]) -> None:
    assert Machine([0x5000 | P], {0x5000: b"\x0f\xa2"}).instruction(0, user=user) == expected


def test_narrow_code_has_a_base_and_32_bits() -> None:
    machine = Machine([0x5000 | P], {0x5FF0: b"\x0f\xa2", 0x10: b"\x67\xf4"})
    assert machine.instruction(0xFFFF_FFFF_0000_0FE0, base=0x10, bits=32) == (2, "0fa2")
    assert machine.instruction(0x20, base=0xFFFF_FFF0, bits=16, cr0=0) == (2, "67f4")


def test_bytes_of_two_pages() -> None:
    machine = Machine([0x6000 | P, 0x5000 | P], {0x6FFD: b"\xf3\x0f\xb8", 0x5000: b"\xc3" + b"\xcc" * 20})
    assert machine.bytes(0xFFD) == "f30fb8c3" + "cc" * 11


def test_at_the_last_address() -> None:
    machine = Machine([0x5000 | P], {0x7FFF: b"\xf4"})
    assert machine.instruction(0x7FFF, cr0=0, efer=0, bits=32) == (1, "f4")
    assert machine.bytes(0x7FFF, cr0=0, efer=0, bits=32) == "f4"

"""Operands of emulated instructions in a real guest's memory: page crossings, rights, faults."""

from __future__ import annotations

import struct
from pathlib import Path

import guest_code as guest
import pytest
from guest_code import Tower, results, run_in, spec_of

pytestmark = pytest.mark.kvm

PF, GP, SS = 14, 13, 12
TABLES = 0x140000
MAPPED = 0x8000000000
DATA = 0x150000
POPCNT_RSI = b"\xf3\x48\x0f\xb8\x06"  # popcnt (%rsi), %rax
POPCNT_RBP = b"\xf3\x48\x0f\xb8\x45\x00"  # popcnt 0(%rbp), %rax


def run(folder: Path, code: bytes, memory: dict[int, bytes], patch: bool = True) -> tuple[int, list[int]]:
    """The run's status (the vector of a fault) and: result 0, the fault's error code, CR2, RIP less CODE.

    MAPPED and the page behind it: the pages at DATA; the third is not present.
    """
    keep_error = b"\x58" + guest.keep(1)  # pop %rax
    keep_cr2 = b"\x0f\x20\xd0" + guest.keep(2)
    keep_rip = b"\x58" + guest.keep(3)
    handlers = {vector: keep_error + keep_cr2 + keep_rip + guest.done(vector) for vector in (PF, GP, SS)}
    image = guest.with_handlers(code + guest.keep(0) + guest.done(), handlers)
    with Tower(spec_of(folder, image, ["logger"], memory=4 << 20)) as tower:
        if "popcnt" in tower.exposure.offer.first:
            pytest.skip("this KVM has popcnt itself")
        top = tower.engine.sregs().cr3
        level = tower.memory[tower.height]
        for address, content in memory.items():
            level.write(address, content)
        if patch:
            level.write(top + 8, struct.pack("<Q", TABLES | 3))
            level.write(TABLES, struct.pack("<Q", TABLES + 0x1000 | 3))
            level.write(TABLES + 0x1000, struct.pack("<Q", TABLES + 0x2000 | 3))
            level.write(TABLES + 0x2000, struct.pack("<QQ", DATA | 3, DATA + 0x2000 | 3))
        result = run_in(tower)
        status = result.status
        kept = results(tower, 4)
        if patch:
            # accessed, not dirty
            kept.append(struct.unpack("<Q", level.read(TABLES + 0x2000, 8))[0] & 0x60)
        return status, kept


def test_an_operand_is_read_through_the_guests_tables(tmp_path: Path) -> None:
    status, kept = run(tmp_path, guest.rsi(MAPPED + 0x10) + POPCNT_RSI, {DATA + 0x10: b"\xff\x01" + bytes(6)})
    assert (status, kept[0], kept[4]) == (0, 9, 0x20)


def test_an_operand_crosses_into_a_page_that_lies_elsewhere(tmp_path: Path) -> None:
    memory = {DATA + 0xFFD: b"\x01\x01\x01", DATA + 0x2000: b"\xff" * 5}
    status, kept = run(tmp_path, guest.rsi(MAPPED + 0xFFD) + POPCNT_RSI, memory)
    assert (status, kept[0]) == (0, 43)


def test_a_page_that_is_not_there_is_a_page_fault(tmp_path: Path) -> None:
    code = guest.rsi(MAPPED + 0x2008) + POPCNT_RSI
    status, kept = run(tmp_path, code, {})
    assert (status, kept[1:4]) == (PF, [0, MAPPED + 0x2008, guest.CODE + 8 + len(code) - len(POPCNT_RSI)])


def test_cr2_is_the_second_page_of_a_crossing(tmp_path: Path) -> None:
    status, kept = run(tmp_path, guest.rsi(MAPPED + 0x1FFE) + POPCNT_RSI, {})
    assert (status, kept[1:3]) == (PF, [0, MAPPED + 0x2000])


@pytest.mark.parametrize(("setup", "instruction", "vector"), [("rsi", POPCNT_RSI, GP), ("rbp", POPCNT_RBP, SS)])
def test_an_address_that_is_not_canonical(tmp_path: Path, setup: str, instruction: bytes, vector: int) -> None:
    address = 1 << 62
    load = guest.rsi(address) if setup == "rsi" else b"\x48\xbd" + struct.pack("<Q", address)
    status, kept = run(tmp_path, load + instruction, {}, patch=False)
    assert (status, kept[1]) == (vector, 0)


def test_a_guest_goes_on_behind_its_fault(tmp_path: Path) -> None:
    """The handler maps the page and returns: the instruction then runs."""
    fix = (
        guest.PUSH_RAX
        + b"\x57"
        + guest.store(TABLES + 0x2010, DATA | 3)
        + b"\x5f"
        + guest.POP_RAX
        + guest.DROP_ERROR_CODE
        + guest.IRETQ
    )
    image = guest.with_handlers(guest.rsi(MAPPED + 0x2000) + POPCNT_RSI + guest.keep(0) + guest.done(), {PF: fix})
    with Tower(spec_of(tmp_path, image, ["logger"], memory=4 << 20)) as tower:
        if "popcnt" in tower.exposure.offer.first:
            pytest.skip("this KVM has popcnt itself")
        level = tower.memory[2]
        level.write(DATA, b"\x07" + bytes(7))
        level.write(tower.engine.sregs().cr3 + 8, struct.pack("<Q", TABLES | 3))
        level.write(TABLES, struct.pack("<Q", TABLES + 0x1000 | 3))
        level.write(TABLES + 0x1000, struct.pack("<Q", TABLES + 0x2000 | 3))
        assert run_in(tower).status == 0
        assert results(tower, 1) == [3]

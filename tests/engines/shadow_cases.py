"""Runs in a lab: maps of several levels under a switcher engine, changed while the guest runs; prints JSON.

shadow_cases.py ENGINE
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from guest_code import (
    DROP_ERROR_CODE,
    IDT,
    IRETQ,
    RESULTS,
    UD2,
    add,
    done,
    keep,
    load,
    out,
    rax,
    rdi,
    rdmsr,
    run_in,
    spec_of,
    store,
    with_handlers,
    wrmsr,
)
from guest_code import results as kept
from print_cases import print_cases

from nestvmm._native import lib
from nestvmm.engines.shadow import Shadow
from nestvmm.hypervisors import (
    HANDLED,
    Direction,
    Event,
    ExitReason,
    Guest,
    Hypervisor,
    Result,
    Rights,
    on,
    on_io,
    on_mmio,
)
from nestvmm.nesting import LevelSpec, Tower
from nestvmm.nesting.memory import Region

HERE = f"{Path(__file__)}:"
PAGE, MIB = 0x1000, 1 << 20
RX = Rights.READ | Rights.EXECUTE
RW = Rights.READ | Rights.WRITE
BIG = 16 * MIB
AREA = 4 * MIB  # what the cases change, away from the guest's code


class Seeing(Hypervisor):
    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def see(self, event: Event) -> None:
        self.seen.append((event.qualifier, event.direction, event.info, event.raw, event.level))


class Devices(Seeing):
    """Answers loads in a range by what it counts, and notes stores."""

    @on_mmio(AREA, 2 * PAGE)
    @on_mmio(lib.NV_SWITCHER_BASE, 2 * MIB)
    def access(self, event: Event) -> Result:
        self.seen.append((event.qualifier, event.direction, event.value, event.size))
        return Result.read(len(self.seen))


class Stores(Seeing):
    """Notes accesses to the area that it maps itself, so that only what its rights refuse gets here."""

    @on(ExitReason.MMIO, AREA, (1 << 64) - 1)
    def access(self, event: Event) -> Result:
        self.seen.append((event.qualifier, event.direction, event.value, event.size))
        return HANDLED


class WriteLog(Seeing):
    """Logs the first write to each page of the area since the last OUT to port 0x5000."""

    def start(self, guest: Guest) -> None:
        super().start(guest)
        self.again(None)

    @on_io(0x5000)
    def again(self, _: Event | None) -> Result:
        self.guest.protect(AREA, 16 * PAGE, RX)
        return HANDLED

    @on(ExitReason.NESTED_PAGE_FAULT, AREA, AREA + 16 * PAGE - 1, Direction.WRITE)
    def write(self, event: Event) -> Result:
        self.see(event)
        self.guest.protect(event.qualifier & -PAGE, PAGE, Rights.ALL)
        return HANDLED


class Pager(Seeing):
    """Maps a page of the area, `offset` beyond itself, once it is touched; OUT to port 0x5000 takes one away again."""

    def __init__(self, offset: int = 0) -> None:
        super().__init__()
        self._offset = offset

    def start(self, guest: Guest) -> None:
        super().start(guest)
        guest.unmap(AREA, MIB)
        guest.unmap(IDT, PAGE)

    @on_io(0x5000)
    def evict(self, event: Event) -> Result:
        self.guest.unmap(AREA + event.value * PAGE, PAGE)
        return HANDLED

    @on(ExitReason.NESTED_PAGE_FAULT)
    def fault(self, event: Event) -> Result:
        self.see(event)
        page = event.qualifier & -PAGE
        self.guest.map(page, PAGE, page + (0 if page == IDT else self._offset))
        return HANDLED


class Tables(Seeing):
    """OUT to port 0x5000 takes away the page of that address until it is touched."""

    @on_io(0x5000)
    def take(self, event: Event) -> Result:
        self.guest.unmap(event.value, PAGE)
        return HANDLED

    @on(ExitReason.NESTED_PAGE_FAULT)
    def fault(self, event: Event) -> Result:
        self.see(event)
        self.guest.map(event.qualifier & -PAGE, PAGE, event.qualifier & -PAGE)
        return HANDLED


class NoExecute(Seeing):
    """Makes the area's first page executable once it is executed."""

    @on(ExitReason.NESTED_PAGE_FAULT, AREA, AREA + PAGE - 1)
    def fault(self, event: Event) -> Result:
        self.see(event)
        self.guest.protect(AREA, PAGE, Rights.ALL)
        return HANDLED


class Declining(Seeing):
    """Withholds pages of the area, makes the next one read-only, and declines all faults there."""

    def __init__(self, pages: int = 4) -> None:
        super().__init__()
        self._size = pages * PAGE

    def start(self, guest: Guest) -> None:
        super().start(guest)
        guest.unmap(AREA, self._size)
        guest.protect(AREA + self._size, PAGE, RX)

    @on(ExitReason.NESTED_PAGE_FAULT, AREA, AREA + 2 * MIB - 1)
    def fault(self, event: Event) -> Result:
        self.see(event)
        return Result.declined()


class Mover(Hypervisor):
    """OUT to port 0x5000 lets the area lead to the page of that number of the second area."""

    @on_io(0x5000)
    def move(self, event: Event) -> Result:
        self.guest.map(AREA, PAGE, 2 * AREA + event.value * PAGE)
        return HANDLED


class Spoiling(Seeing):
    """OUT to port 0x5000 makes the entry for the area one that gives writing without reading; then mends it."""

    shadow: Any = None

    @on_io(0x5000)
    def spoil(self, event: Event) -> Result:
        lib.nv_shadow_fill(self.shadow, AREA, lib.NV_RIGHT_READ)
        table, self._at = self.shadow.root, 0
        for shift in (39, 30, 21, 12):
            self._at = 512 * table + (AREA >> shift & 511)
            self._entry = self.shadow.pool[self._at]
            if self._entry & 1 << 7:
                break
            table = ((self._entry & -PAGE) - self.shadow.physical) // PAGE
        self.shadow.pool[self._at] = self._entry & ~5
        return HANDLED

    @on(ExitReason.NESTED_MISCONFIGURATION)
    def mend(self, event: Event) -> Result:
        self.see(event)
        self.shadow.pool[self._at] = self._entry
        return HANDLED


def run(
    engine: str, code: bytes, levels: list[LevelSpec], count: int = 0, memory: int = BIG, **more: int
) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Tower(spec_of(Path(folder), code, levels, engine=engine, memory=memory, timeout=40)) as tower,
    ):
        shadow = tower.engine._shadow.c
        for one in tower.hypervisors:
            if hasattr(one, "shadow"):
                one.shadow = shadow
        result = run_in(tower)
        return {
            "status": result.status,
            "message": result.message,
            "exits": int(tower.engine.vcpu.exits),
            "kept": kept(tower, count),
            "seen": [
                seen for seen in (getattr(one, "seen", None) for one in tower.hypervisors) if isinstance(seen, list)
            ],
            "rebuilt": shadow.rebuilt,
            "used": shadow.used,
            "memory": {
                name: int.from_bytes(tower.memory[1].read(address, 8), "little") for name, address in more.items()
            },
        }


def offsets(engine: str) -> dict[str, object]:
    """L3's address is L2's + 2 MiB and L1's + 5 MiB; one page is there twice."""
    levels = [
        LevelSpec("logger", memory=(Region(0, 8 * MIB, 3 * MIB),)),
        LevelSpec("logger", memory=(Region(0, 2 * MIB, 2 * MIB), Region(AREA, PAGE, 2 * MIB + RESULTS + PAGE))),
    ]
    code = store(RESULTS + PAGE, 0x1111) + load(AREA) + keep(0) + store(AREA + 8, 0x2222) + load(RESULTS + PAGE + 8)
    return run(engine, code + keep(1) + done(), levels, 2, first=5 * MIB + RESULTS, second=5 * MIB + RESULTS + PAGE + 8)


def write_log(engine: str) -> dict[str, object]:
    writes = store(AREA + 0x18, 1) + store(AREA + 0x20, 2) + load(AREA + 5 * PAGE) + store(AREA + 3 * PAGE + 0xFF8, 3)
    code = writes + out(0x5000, 0) + writes + load(AREA + 3 * PAGE + 0xFF8) + keep(0) + done()
    return run(engine, code, [LevelSpec(HERE + "WriteLog")], 1, second=AREA + 0x20)


def demand_paging(engine: str) -> dict[str, object]:
    """The pager at L2 gives its guest pages 1 MiB beyond; L1 moves all of it."""
    touch = b"".join(store(AREA + number * PAGE, number + 1) for number in (7, 0, 3))
    code = touch + load(AREA + 7 * PAGE) + keep(0) + out(0x5000, 7) + load(AREA + 7 * PAGE) + keep(1)
    code = with_handlers(code + UD2, {6: store(RESULTS + 16, 6) + done()})
    levels = [
        LevelSpec("logger", memory=(Region(0, 8 * MIB, 2 * MIB),)),
        LevelSpec(HERE + "Pager", {"offset": MIB}),
        LevelSpec("logger"),
    ]
    return run(engine, code, levels, 3, third=2 * MIB + AREA + MIB + 3 * PAGE)


def two_pagers(engine: str) -> dict[str, object]:
    levels = [LevelSpec(HERE + "Pager"), LevelSpec(HERE + "Pager", {"offset": 8 * PAGE})]
    return run(engine, store(AREA + PAGE, 5) + load(AREA + PAGE) + keep(0) + done(), levels, 1, moved=AREA + 9 * PAGE)


def execute() -> bytes:
    """Calls a RET at the area."""
    return store(AREA, 0xC3, 1) + rax(AREA) + b"\xff\xd0" + rax(0x77) + keep(0)


def no_execute(engine: str) -> dict[str, object]:
    memory = (Region(0, AREA, 0), Region(AREA, PAGE, AREA, RW), Region(AREA + PAGE, MIB, AREA + PAGE))
    return run(engine, execute() + done(), [LevelSpec(HERE + "NoExecute", memory=memory)], 1)


def no_execute_unclaimed(engine: str) -> dict[str, object]:
    return run(
        engine, execute() + done(), [LevelSpec("logger", memory=(Region(0, AREA, 0), Region(AREA, PAGE, AREA, RW)))], 1
    )


def pool(engine: str) -> dict[str, object]:
    """16 MiB in 4 KiB pages need more tables than there are."""
    Shadow.pages = 12
    try:
        touch = b"".join(store(2 * MIB * number + MIB, number) for number in range(1, 15)) + rax(0)
        read = b"".join(
            rdi(2 * MIB * number + MIB) + b"\x48\x03\x07"  # add (%rdi), %rax
            for number in range(1, 15)
        )
        level = LevelSpec("logger", memory=(Region(0, 32 * MIB - PAGE, PAGE),))
        return run(engine, touch + read + keep(0) + done(), [level], 1, memory=32 * MIB)
    finally:
        Shadow.pages = lib.NV_SHADOW_TABLE_COUNT


def few_tables(engine: str) -> dict[str, object]:
    """Memory in pages of 1 GiB."""
    code = b"".join(store(number << 30, number) for number in (1, 2)) + load(2 << 30) + keep(0) + done()
    return run(engine, code, [], 1, memory=8 << 30)


def holes(engine: str) -> dict[str, object]:
    """A device in the middle of memory, and an address where nothing is."""
    code = load(AREA + 0x10) + keep(0) + store(AREA + PAGE + 4, 0x12345678, 4) + load(0xD0000000) + keep(1)
    levels = [LevelSpec("logger", memory=(Region(0, 8 * MIB, 0),)), LevelSpec(HERE + "Devices")]
    return run(engine, code + load(AREA + 2 * PAGE) + keep(2) + done(), levels, 3)


def windows(engine: str) -> dict[str, object]:
    """Devices at addresses where the switcher is: more pages than there are windows, some of them twice."""
    entry = lib.NV_SWITCHER_BASE | 0x87
    find = b"\x0f\x20\xd8\x48\x8b\x00\x48\x25\x00\xf0\xff\xff"  # rax = cr3; rax = its first PDPT
    find += b"\x48\x8b\x40\x08\x48\x25\x00\xf0\xff\xff" + b"\x48\x89\xc7"  # rdi = the PD of the second GiB
    patch = rax(entry) + b"\x48\x89\x07" + b"\x0f\x20\xd8\x0f\x22\xd8"  # its first entry; reload cr3
    pages = [*range(100), 99, 5]
    reads = b"".join(load(0x40000000 + number * PAGE + 8 * number) for number in pages)
    code = find + patch + reads + keep(0) + store(0x40003088, 0x77) + done()
    return run(engine, code, [LevelSpec(HERE + "Devices")], 1)


def read_only(engine: str) -> dict[str, object]:
    """Twice the same page, read-only: each write is its own address's."""
    memory = (
        Region(0, AREA, 0),
        Region(AREA, PAGE, 2 * AREA, RX),
        Region(AREA + PAGE, PAGE, 2 * AREA, RX),
        Region(AREA + 2 * PAGE, PAGE, 2 * AREA),
    )
    code = store(AREA + 2 * PAGE, 0xABCD) + store(AREA, 1) + store(AREA + PAGE, 2, 4) + load(AREA + PAGE) + keep(0)
    return run(
        engine, code + done(), [LevelSpec("logger", memory=memory), LevelSpec(HERE + "Stores")], 1, page=2 * AREA
    )


def declined(engine: str) -> dict[str, object]:
    code = load(AREA + 8) + keep(0) + load(AREA + 16) + keep(1) + store(AREA, 5) + load(AREA) + keep(2)
    write = store(AREA + 4 * PAGE, 7) + store(AREA + 4 * PAGE, 8) + load(AREA + 4 * PAGE) + keep(3)
    return run(engine, code + write + done(), [LevelSpec(HERE + "Declining"), LevelSpec("logger")], 4)


def many_declined(engine: str) -> dict[str, object]:
    """More pages than L0 remembers, then the first and the last again."""
    usual, Shadow.conceded_max = Shadow.conceded_max, 16
    try:
        pages = [*range(20), 0, 19]
        code = b"".join(load(AREA + number * PAGE) for number in pages) + keep(0) + done()
        return run(engine, code, [LevelSpec(HERE + "Declining", {"pages": 30})], 1)
    finally:
        Shadow.conceded_max = usual


def unseen(engine: str) -> dict[str, object]:
    """L1's pager takes away what L2 gives no one; then a page is filled."""
    levels = [LevelSpec(HERE + "Pager"), LevelSpec("logger", memory=(Region(0, 2 * MIB, 6 * MIB),))]
    code = out(0x5000, 3) + out(0x5000, 4) + store(MIB + 0x80000, 5) + load(MIB + 0x80000) + keep(0) + done()
    return run(engine, code, levels, 1, memory=BIG)


def moved(engine: str) -> dict[str, object]:
    fill = b"".join(store(2 * AREA + number * PAGE, 0x100 + number) for number in range(3))
    see = b"".join(out(0x5000, number) + load(AREA) + keep(index) for index, number in enumerate((0, 2, 1)))
    back = store(AREA, 0x55) + load(2 * AREA + PAGE) + keep(3)
    return run(engine, fill + see + back + done(), [LevelSpec(HERE + "Mover"), LevelSpec("logger")], 4)


def misconfigured(engine: str) -> dict[str, object]:
    code = out(0x5000, 0) + load(AREA + 8) + keep(0) + store(AREA + 8, 7) + load(AREA + 8) + keep(1)
    return run(engine, code + done(), [LevelSpec(HERE + "Spoiling"), LevelSpec("logger")], 2)


def tables(engine: str) -> dict[str, object]:
    """The page that CR3 names goes; the walk of the guest's own tables is what faults."""
    code = b"\x0f\x20\xd8\xba\x00\x50\x00\x00\xef" + b"\x0f\x20\xd8\x0f\x22\xd8" + rax(0x33) + keep(0) + done()
    return run(engine, code, [LevelSpec(HERE + "Tables")], 1)


CLOCK = 0x4B564D01
SKIP_WRMSR = DROP_ERROR_CODE + b"\x48\x83\x04\x24\x02" + IRETQ


def clock(engine: str) -> dict[str, object]:
    """KVM's clock at an address that two levels move, and then at another page."""
    levels = [
        LevelSpec("logger", memory=(Region(0, BIG, MIB),)),
        LevelSpec(HERE + "Mover", memory=(Region(0, 4 * AREA - MIB, 0),)),
    ]
    enable = wrmsr(CLOCK, AREA + 0x41) + rdmsr(CLOCK) + keep(0) + out(0x80, 0) + load(AREA + 0x50) + keep(1)
    move = store(2 * AREA + PAGE + 0x50, 0) + out(0x5000, 1) + out(0x80, 0) + load(AREA + 0x50) + keep(2)
    off = wrmsr(CLOCK, 0) + store(AREA + 0x50, 0) + out(0x80, 0) + load(AREA + 0x50) + keep(3)
    first = {"first": MIB + AREA + 0x50, "second": MIB + 2 * AREA + PAGE + 0x50}
    return run(engine, enable + move + off + done(), levels, 4, memory=2 * BIG, **first)


def hostile_msrs(engine: str) -> dict[str, object]:
    """KVM is to write the switcher, its tables, across an end of memory, and read-only memory; and Hyper-V."""
    addresses = (
        (CLOCK, lib.NV_SWITCHER_BASE | 1),
        (CLOCK, lib.NV_SHADOW_TABLES | 1),
        (CLOCK, AREA - 8 | 1),
        (0x12, AREA | 1),
        (0x11, lib.NV_SWITCHER_BASE),
        (0x4B564D03, lib.NV_SWITCHER_BASE | 1),
        (0x40000000, 1),
        (0x40000001, lib.NV_SWITCHER_BASE | 1),
        ((CLOCK), 0),
    )
    code = with_handlers(b"".join(wrmsr(*one) for one in addresses) + done(), {13: add(0) + SKIP_WRMSR})
    memory = (Region(0, AREA, 0), Region(AREA, PAGE, 2 * AREA, RX))
    return run(engine, code, [LevelSpec("logger", memory=memory)], 1)


CASES = {
    "offsets": offsets,
    "write log": write_log,
    "demand paging": demand_paging,
    "two pagers": two_pagers,
    "no execute": no_execute,
    "no execute unclaimed": no_execute_unclaimed,
    "pool": pool,
    "few tables": few_tables,
    "holes": holes,
    "windows": windows,
    "read-only": read_only,
    "declined": declined,
    "moved": moved,
    "unseen": unseen,
    "many declined": many_declined,
    "tables": tables,
    "clock": clock,
    "hostile msrs": hostile_msrs,
}

if __name__ == "__main__":
    engine = sys.argv[1]
    # NPT has no entries that are wrong in themselves, but for reserved bits
    only_vmx = {"misconfigured": misconfigured} if engine == "vmx" else {}
    print_cases({name: partial(case, engine) for name, case in (CASES | only_vmx).items()})

"""The first method of nested virtualization, sentence by sentence, on real hardware.

An event of level n traps at L0 -> L0 finds the designated hypervisor x (of several the highest, none: L0) -> transforms
the event to one that level x+1 caused -> x emulates it -> its effects are propagated to levels x+1 to n -> L0 resumes
level n. One hardware exit, at any depth.
"""

from __future__ import annotations

from pathlib import Path

import guest_code as guest
import pytest
from guest_code import Tower, results, run_in, spec_of

from nestvmm.hypervisors import Event, ExitReason, Hypervisor, Result, on_io, on_mmio, on_rdmsr, on_wrmsr
from nestvmm.nesting import Account, Clock, LevelSpec
from nestvmm.nesting.memory import Region
from nestvmm.x86.event import Direction
from nestvmm.x86.rights import Rights

pytestmark = pytest.mark.kvm

PORT = 0x5000
MIB = 1 << 20
MSR = 0x4E560000


class Silent(Hypervisor):
    """Claims nothing, but hears of effects."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, int]] = []

    def propagated(self, event: Event, value: int) -> None:
        self.heard.append((event.level, event.qualifier, value))


class Counting(Silent):
    """Its port reads as how often it was read; it remembers what it saw and what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Event] = []
        self.written: list[int] = []

    @on_io(PORT)
    def access(self, event: Event) -> Result:
        self.seen.append(event)
        if event.direction == Direction.WRITE:
            self.written.append(event.value)
            return Result.handled()
        return Result.read(len(self.seen))


class Declining(Counting):
    @on_io(PORT)
    def access(self, event: Event) -> Result:
        self.seen.append(event)
        return Result.declined()


class Handing(Counting):
    """Hands its port's events to level `to`."""

    def __init__(self, to: int) -> None:
        super().__init__()
        self._to = to

    @on_io(PORT)
    def access(self, event: Event) -> Result:
        self.seen.append(event)
        return Result.reflected(self._to)


class Device(Silent):
    """A page of registers at `address` of its guest; reads as the offset."""

    def __init__(self, address: int) -> None:
        super().__init__()
        self._address = address
        self.seen: list[Event] = []

    def claims(self):
        yield ExitReason.MMIO, self._address, self._address + 0xFFF, None, self.access

    def access(self, event: Event) -> Result:
        self.seen.append(event)
        return Result.read(event.qualifier - self._address)


class Writing(Silent):
    """IN from its port also fills memory and registers of its guest."""

    @on_io(PORT)
    def access(self, event: Event) -> Result:
        self.guest.write(guest.RESULTS + 0x100, b"written!")
        regs = self.guest.regs
        regs.rbx = 0x0123456789ABCDEF
        self.guest.set_regs(regs)
        return Result.read(0x5A)


class Msrs(Silent):
    @on_rdmsr(MSR)
    def read(self, event: Event) -> Result:
        return Result.read(0x1122334455667788)

    @on_wrmsr(MSR)
    def write(self, event: Event) -> Result:
        return Result.handled()


class Area(Hypervisor):
    """A device in its guest's memory, so that the memory behind it is not seen."""

    @on_mmio(0x180000, 0x1000)
    def access(self, event: Event) -> Result:
        return Result.read(0xDE)


def level(name: str, memory: tuple[Region, ...] | None = None, **options: int) -> LevelSpec:
    return LevelSpec(f"{__name__}:{name}", options, memory)


def silent(count: int) -> list[LevelSpec]:
    return [level("Silent")] * count


def accounts(tower: Tower) -> dict[tuple[int, str], int]:
    """Counts by handling level and reason."""
    counts: dict[tuple[int, str], int] = {}
    for row in Account.of(tower, Clock(), 1.0).rows:
        counts[row.level, row.reason] = counts.get((row.level, row.reason), 0) + row.count
    return counts


@pytest.mark.parametrize("height", [1, 2, 5, 16])
def test_an_event_of_level_n_traps_at_l0(tmp_path: Path, height: int) -> None:
    code = guest.inp(0x61F0) + guest.keep(0) + guest.done(5)
    with Tower(spec_of(tmp_path, code, silent(height - 1))) as tower:
        assert run_in(tower).status == 5
        assert results(tower, 1) == [0xFF]
        assert tower.engine.vcpu.event.level == height
        assert accounts(tower) == {(0, "io"): 2}


@pytest.mark.parametrize("x", [1, 2, 3])
def test_l0_finds_the_designated_hypervisor(tmp_path: Path, x: int) -> None:
    levels = silent(3)
    levels[x - 1] = level("Counting")
    with Tower(spec_of(tmp_path, guest.out(PORT, 0x42) + guest.done(), levels)) as tower:
        assert run_in(tower).status == 0
        assert tower.hypervisors[x - 1].written == [0x42]
        assert accounts(tower) == {(x, "io"): 1, (0, "io"): 1}


def test_of_several_it_is_the_highest_level(tmp_path: Path) -> None:
    levels = [level("Counting"), level("Silent"), level("Counting"), level("Silent")]
    with Tower(spec_of(tmp_path, guest.inp(PORT) + guest.done(), levels)) as tower:
        assert run_in(tower).status == 0
        assert [len(tower.hypervisors[i].seen) for i in (0, 2)] == [0, 1]


def test_what_the_highest_declines_goes_to_the_next_below(tmp_path: Path) -> None:
    levels = [level("Counting"), level("Declining"), level("Declining")]
    with Tower(spec_of(tmp_path, guest.inp(PORT) + guest.keep(0) + guest.done(), levels)) as tower:
        assert run_in(tower).status == 0
        assert [[event.level for event in one.seen] for one in tower.hypervisors] == [[2], [3], [4]]
        assert results(tower, 1) == [1]
        assert accounts(tower) == {(1, "io"): 1, (0, "io"): 1}


def test_a_hypervisor_may_hand_an_event_to_one_below(tmp_path: Path) -> None:
    levels = [level("Counting"), level("Counting"), level("Handing", to=1)]
    with Tower(spec_of(tmp_path, guest.inp(PORT) + guest.keep(0) + guest.done(), levels)) as tower:
        assert run_in(tower).status == 0
        assert [[event.level for event in one.seen] for one in tower.hypervisors] == [[2], [], [4]]


def test_the_user_designates_a_lower_level(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, guest.inp(PORT) + guest.done(), [level("Counting")] * 3, designate=(f"io:{PORT:#x}=L2",))
    with Tower(spec) as tower:
        assert run_in(tower).status == 0
        assert [len(one.seen) for one in tower.hypervisors] == [0, 1, 0]


def test_when_none_is_designated_l0_handles_it(tmp_path: Path) -> None:
    # the debug console of L0 reads as 0xe9; at PORT there is nothing
    code = guest.inp(0xE9) + guest.keep(0) + guest.inp(PORT, 2) + guest.keep(1) + guest.done()
    with Tower(spec_of(tmp_path, code, [level("Silent"), level("Declining")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 2) == [0xE9, 0xFFFF]
        account = Account.of(tower, Clock(), 1.0)
        assert [(one.reason, one.qualifier, one.direction, one.count) for one in account.unclaimed] == [
            ("io", f"{PORT:#x}", "read", 1)
        ]


@pytest.mark.parametrize("x", [1, 2, 3])
def test_the_event_is_transformed_to_one_that_level_x_plus_1_caused(tmp_path: Path, x: int) -> None:
    levels = silent(3)
    levels[x - 1] = level("Counting")
    with Tower(spec_of(tmp_path, guest.out(PORT, 0x1234, 2) + guest.done(), levels)) as tower:
        assert run_in(tower).status == 0
        (event,) = tower.hypervisors[x - 1].seen
        assert (event.level, event.reason, event.qualifier) == (x + 1, ExitReason.IO, PORT)
        assert (event.direction, event.size, event.count) == (Direction.WRITE, 2, 1)
        assert (event.value, event.data) == (0x1234, b"\x34\x12")


# Level 4's devices at 0xd0000000 are level 3's at 0xc8000000, level 2's at 0xb0000000 and level 1's at 0xa0000000.
MAPPED = (
    level("Device", (Region(0, 4 * MIB, 2 * MIB), Region(0xB0000000, 0x3000, 0xA0000000)), address=0xB0000000),
    level("Device", (Region(0, 2 * MIB, 2 * MIB), Region(0xC8000000, 0x3000, 0xB0000000)), address=0xC8001000),
    level("Device", (Region(0, 2 * MIB, 0), Region(0xD0000000, 0x3000, 0xC8000000)), address=0xD0002000),
)


@pytest.mark.parametrize(
    ("x", "at_guest", "at_handler"),
    [(1, 0xD0000010, 0xB0000010), (2, 0xD0001020, 0xC8001020), (3, 0xD0002030, 0xD0002030)],
)
def test_an_address_is_transformed_by_every_map_between(tmp_path: Path, x: int, at_guest: int, at_handler: int) -> None:
    code = guest.load(at_guest, 4) + guest.keep(0) + guest.store(at_guest, 0xFEDC, 2) + guest.done()
    with Tower(spec_of(tmp_path, code, MAPPED, memory=8 * MIB)) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [at_handler & 0xFFF]
        seen = [[(e.level, e.qualifier, e.direction, e.size, e.value) for e in one.seen] for one in tower.hypervisors]
        expected = [(x + 1, at_handler, Direction.READ, 4, 0), (x + 1, at_handler, Direction.WRITE, 2, 0xFEDC)]
        assert seen == [expected if number == x else [] for number in (1, 2, 3)]


def test_hypervisor_x_emulates_it_with_state_of_its_own(tmp_path: Path) -> None:
    reads = b"".join(guest.inp(PORT) + guest.keep(i) for i in range(3))
    levels = [level("Counting"), level("Counting"), level("Silent")]
    with Tower(spec_of(tmp_path, reads + guest.done(), levels)) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 3) == [1, 2, 3]
        assert [len(one.seen) for one in tower.hypervisors[:2]] == [0, 3]


def test_its_answer_reaches_level_n(tmp_path: Path) -> None:
    code = guest.rdmsr(MSR) + guest.keep(0) + guest.wrmsr(MSR, 1 << 40 | 7) + guest.done()
    with Tower(spec_of(tmp_path, code, [level("Msrs"), *silent(2)])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [0x1122334455667788]
        assert tower.hypervisors[0].guest.last(ExitReason.WRMSR, MSR, write=True) == 1 << 40 | 7


def test_its_effects_are_propagated_to_levels_x_plus_1_to_n(tmp_path: Path) -> None:
    levels = [level("Silent"), level("Counting"), level("Silent"), level("Silent")]
    with Tower(spec_of(tmp_path, guest.inp(PORT) + guest.out(PORT, 0x77) + guest.done(), levels)) as tower:
        assert run_in(tower).status == 0
        # hypervisor y looks at level y+1
        for y in (2, 3, 4):
            seen = tower.hypervisors[y - 1].guest
            assert seen.level == y + 1
            assert seen.last(ExitReason.IO, PORT) == 1
            assert seen.last(ExitReason.IO, PORT, write=True) == 0x77
        assert [tower.hypervisors[y - 1].heard[:2] for y in (3, 4)] == [
            [(4, PORT, 1), (4, PORT, 0x77)],
            [(5, PORT, 1), (5, PORT, 0x77)],
        ]


def test_its_effects_are_not_propagated_to_levels_1_to_x(tmp_path: Path) -> None:
    levels = [level("Silent"), level("Counting"), level("Silent")]
    with Tower(spec_of(tmp_path, guest.inp(PORT) + guest.done(), levels)) as tower:
        assert run_in(tower).status == 0
        below = tower.hypervisors[0]
        assert below.guest.last(ExitReason.IO, PORT) is None
        assert below.heard == []
        assert tower.hypervisors[1].heard == []
        assert tower.hypervisors[2].heard == [(4, PORT, 1)]


def test_an_address_of_an_effect_is_every_levels_own(tmp_path: Path) -> None:
    with Tower(spec_of(tmp_path, guest.store(0xD0000018, 0x99, 1) + guest.done(), MAPPED, memory=8 * MIB)) as tower:
        assert run_in(tower).status == 0
        for hypervisor, address in zip(tower.hypervisors, (0xB0000018, 0xC8000018, 0xD0000018), strict=True):
            assert hypervisor.guest.last(ExitReason.MMIO, address, write=True) == 0x99
            assert hypervisor.guest.last(ExitReason.MMIO, address + 1, write=True) is None
        assert tower.hypervisors[1].heard == [(3, 0xC8000018, 0x99)]
        assert tower.hypervisors[2].heard == [(4, 0xD0000018, 0x99)]


def test_memory_that_x_writes_is_seen_by_each_level_at_its_own_address(tmp_path: Path) -> None:
    levels = [
        level("Silent", (Region(0, 4 * MIB, 3 * MIB),)),
        level("Writing", (Region(0, 3 * MIB, MIB),)),
        level("Silent", (Region(0, 2 * MIB, MIB // 2),)),
    ]
    # level 3's 0x120100 is level 4's 0xa0100
    own = guest.RESULTS + 0x100 - MIB // 2
    code = guest.inp(PORT) + guest.load(own) + guest.keep(0) + guest.done()
    with Tower(spec_of(tmp_path, code, levels, memory=8 * MIB)) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 1) == [int.from_bytes(b"written!", "little")]
        places = {4: own, 3: guest.RESULTS + 0x100, 2: guest.RESULTS + 0x100 + MIB, 1: guest.RESULTS + 0x100 + 4 * MIB}
        assert {n: tower.memory[n].read(address, 8) for n, address in places.items()} == dict.fromkeys(
            places, b"written!"
        )


def test_registers_that_x_writes_are_level_ns(tmp_path: Path) -> None:
    code = guest.rbx(5) + guest.inp(PORT) + guest.keep(0) + guest.keep_rbx(1) + guest.done()
    with Tower(spec_of(tmp_path, code, [level("Silent"), level("Writing"), level("Silent")])) as tower:
        assert run_in(tower).status == 0
        assert results(tower, 2) == [0x5A, 0x0123456789ABCDEF]


def test_a_level_without_memory_behind_its_device_has_none_at_any_level_above(tmp_path: Path) -> None:
    code = guest.load(0x180000, 1) + guest.keep(0) + guest.done()
    with Tower(spec_of(tmp_path, code, [level("Silent"), level("Area"), level("Silent")])) as tower:
        assert [tower.maps.to_host(n).translate(0x180000) is None for n in (1, 2, 3, 4)] == [False, False, True, True]
        assert run_in(tower).status == 0
        assert results(tower, 1) == [0xDE]


def test_a_level_cannot_write_what_the_level_below_gave_it_to_read(tmp_path: Path) -> None:
    read_only = (Region(0, MIB + MIB // 2, 0), Region(MIB + MIB // 2, MIB // 2, MIB + MIB // 2, Rights.READ))
    code = guest.store(0x190000, 0x55) + guest.load(0x190000) + guest.keep(0) + guest.done()
    with Tower(spec_of(tmp_path, code, [level("Silent", read_only), level("Silent")])) as tower:
        tower.memory[1].write(0x190000, b"constant")
        assert run_in(tower).status == 0
        assert results(tower, 1) == [int.from_bytes(b"constant", "little")]


@pytest.mark.parametrize("x", [0, 1, 3])
def test_l0_resumes_level_n_behind_the_instruction(tmp_path: Path, x: int) -> None:
    levels = silent(3)
    if x:
        levels[x - 1] = level("Counting")
    code = guest.repeat(50, guest.inp(PORT) + guest.add(0)) + guest.out(PORT, 1) + guest.add(1, 3) + guest.done(9)
    with Tower(spec_of(tmp_path, code, levels)) as tower:
        assert run_in(tower).status == 9
        assert results(tower, 2) == [50, 3]
        assert accounts(tower)[x, "io"] == (51 if x else 52)


@pytest.mark.parametrize("height", [1, 2, 3, 8, 16])
def test_one_hardware_exit_at_any_depth(tmp_path: Path, height: int) -> None:
    levels = [level("Counting"), *silent(height - 2)] if height > 1 else []
    code = guest.repeat(20, guest.inp(PORT)) + guest.repeat(20, guest.out(PORT, 1)) + guest.done()
    with Tower(spec_of(tmp_path, code, levels)) as tower:
        assert run_in(tower).status == 0
        assert tower.engine.vcpu.exits == 41
        assert sum(row.count for row in Account.of(tower, Clock(), 1.0).rows) == 41

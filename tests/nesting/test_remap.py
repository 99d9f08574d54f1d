"""Hypervisors that change their guest's memory map at run time: what the engine, the views and the table make of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_engine import FakeEngine, loads, reads, stores
from scripted import Exit, Run, Scripted, scripted

from nestvmm.errors import HostError, HypervisorError
from nestvmm.hypervisors import HANDLED, Event, ExitReason, GuestAccessError, Result, Rights
from nestvmm.nesting import LevelSpec, RunResult
from nestvmm.nesting.memory import Region
from nestvmm.x86.event import Direction

PAGE, MIB = 0x1000, 1 << 20
FAULT = ExitReason.NESTED_PAGE_FAULT
ONES = (1 << 64) - 1
RX = Rights.READ | Rights.EXECUTE
Behave = Callable[[Scripted, Event], Result]


def once(*steps: Callable[[Scripted], None]) -> Behave:
    """Does a step at each event."""
    left = list(steps)

    def behave(hypervisor: Scripted, _: Event) -> Result:
        left.pop(0)(hypervisor)
        return HANDLED

    return behave


def faults(address: int, direction: Direction = Direction.READ) -> Exit:
    return Exit(FAULT, address, direction)


def remaps(engine: FakeEngine) -> list[tuple[object, ...]]:
    return [entry[1:] for entry in engine.log if entry[0] == "remap"]


def moved(**options: int | str) -> LevelSpec:
    """Its guest's memory are 4 MiB of its own from 1 MiB on."""
    return LevelSpec("scripted:Scripted", options, memory=(Region(0, 4 * MIB, MIB),))


def test_the_engine_hears_of_level_ns_memory_and_of_what_changed_in_its_addresses(make: Callable[..., Run]) -> None:
    """L1 changes L2's memory; L3 has it 1 MiB lower."""
    run = make(scripted(), moved(reason="io", first=0x6000, last=0x6000), memory=8 * MIB)
    run.hypervisor(1).behave = once(
        lambda one: one.guest.unmap(MIB + 2 * PAGE, PAGE),
        lambda one: one.guest.map(MIB + 2 * PAGE, PAGE, 5 * PAGE, RX),
        lambda one: one.guest.protect(MIB, 4 * PAGE, Rights.READ | Rights.WRITE),
    )
    assert run.go(reads(0x5000), reads(0x5000), reads(0x5000)) == RunResult(0)
    before = (0, 2 * PAGE, MIB, False, True)
    after = (3 * PAGE, 4 * MIB - 3 * PAGE, MIB + 3 * PAGE, False, True)
    assert remaps(run.engine) == [
        ([before, after], [], [(2 * PAGE, 3 * PAGE - 1)]),
        ([before, (2 * PAGE, PAGE, 5 * PAGE, True, True), after], [], [(2 * PAGE, 3 * PAGE - 1)]),
        (
            [
                (0, 2 * PAGE, MIB, False, False),
                (2 * PAGE, PAGE, 5 * PAGE, False, False),
                (3 * PAGE, PAGE, MIB + 3 * PAGE, False, False),
                (4 * PAGE, 4 * MIB - 4 * PAGE, MIB + 4 * PAGE, False, True),
            ],
            [],
            [(0, 4 * PAGE - 1)],
        ),
    ]


def test_views_of_the_memory_follow(make: Callable[..., Run]) -> None:
    run = make(scripted(), scripted(first=0x6000, last=0x6000))
    views = [run.hypervisor(level).guest for level in (1, 2)]

    def change(hypervisor: Scripted, _: Event) -> Result:
        views[1].write(5 * PAGE, b"five")
        hypervisor.guest.map(9 * PAGE, PAGE, 5 * PAGE)
        assert views[1].read(9 * PAGE, 4) == views[0].read(9 * PAGE, 4) == b"five"
        hypervisor.guest.unmap(9 * PAGE, PAGE)
        with pytest.raises(GuestAccessError):
            views[1].read(9 * PAGE, 1)
        return HANDLED

    run.hypervisor(1).behave = change
    assert run.go(reads(0x5000)) == RunResult(0)


def test_faults_are_reported_where_the_claiming_level_withholds_something(make: Callable[..., Run]) -> None:
    run = make(scripted("nested-page-fault", 0, 8 * PAGE - 1), scripted("mmio", 2 * PAGE, 2 * PAGE))
    assert run.engine.config.reported == []
    views = [run.hypervisor(level).guest for level in (1, 2)]
    views[0].unmap(0, 4 * PAGE)
    views[0].protect(6 * PAGE, 8 * PAGE, Rights.READ)
    views[1].unmap(PAGE, PAGE)
    assert [entry[1] for entry in remaps(run.engine)] == [
        [(0, 2 * PAGE - 1), (3 * PAGE, 4 * PAGE - 1)],
        [(0, 2 * PAGE - 1), (3 * PAGE, 4 * PAGE - 1), (6 * PAGE, 8 * PAGE - 1)],
        [(0, PAGE - 1), (3 * PAGE, 4 * PAGE - 1), (6 * PAGE, 8 * PAGE - 1)],
    ]


def test_a_fault_goes_to_the_level_whose_map_refuses_it(make: Callable[..., Run]) -> None:
    """L2 has the page writable, L1 only readable: the write is L1's, in its guest's coordinates."""
    claim = {"reason": "nested-page-fault", "first": 0, "last": ONES}
    run = make(LevelSpec("scripted:Scripted", claim), moved(**claim), memory=8 * MIB)
    run.hypervisor(1).guest.protect(MIB, MIB, RX)
    run.hypervisor(2).guest.unmap(PAGE, PAGE)
    writes, executes = Direction.WRITE, Direction.EXECUTE
    died = run.go(faults(8, writes), faults(PAGE + 8, writes), faults(8, executes))
    seen = [(one.qualifier, one.direction, one.level) for level in (1, 2) for one in run.hypervisor(level).seen]
    assert seen == [(MIB + 8, writes, 2), (PAGE + 8, writes, 3)]
    assert died.status == 255
    assert died.message.startswith(
        "guest at L3 died: it executed at physical address 0x100008, which the levels below do not let it\n"
    )


def test_the_table_follows_a_map_between_a_claim_and_the_guest(make: Callable[..., Run]) -> None:
    """L1's device at L2's 0xd0000000: L2 lets its guest see it elsewhere."""
    run = make(scripted("mmio", 0xD0000000, 0xD0000FFF), scripted())
    run.hypervisor(1).behave = lambda *_: Result.read(0x77)
    run.hypervisor(2).behave = once(lambda one: one.guest.map(0xE0000000, PAGE, 0xD0000000))
    assert run.go(loads(0xE0000010), reads(0x5000), loads(0xE0000010), stores(0xD0000004, 1)) == RunResult(0)
    assert [answer.value for answer in run.engine.answers] == [0xFF, 0, 0x77, 0]
    assert [event.qualifier for event in run.hypervisor(1).seen] == [0xD0000010, 0xD0000004]
    rows = [run.tower.counters[slot].count for slot in range(run.tower.flat.first_slot, run.tower.flat.first_slot + 2)]
    assert rows == [2, 1], "the claims keep their counters"


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda guest: guest.map(1, PAGE, 0), "base is no multiple of the page size"),
        (lambda guest: guest.map(0, PAGE, 5), "at is no multiple of the page size"),
        (lambda guest: guest.map(0, PAGE, 0, Rights(0)), "it gives no right"),
        (lambda guest: guest.unmap(0, 0), "size must be positive"),
        (lambda guest: guest.protect(-PAGE, PAGE, RX), "leaves the physical addresses"),
    ],
)
def test_bad_ranges_are_the_hypervisors_error(
    call: Callable[[object], None], problem: str, make: Callable[..., Run]
) -> None:
    run = make(scripted())
    run.hypervisor(1).behave = lambda one, _: call(one.guest)
    with pytest.raises(HypervisorError, match=problem):
        run.go(reads(0x5000))
    assert remaps(run.engine) == []


def test_what_the_engine_refuses_changes_nothing(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(scripted())
    guest = run.hypervisor(1).guest
    guest.write(PAGE, b"kept")

    def refuse(*_: object) -> None:
        raise HostError("no room")

    monkeypatch.setattr(run.engine, "remap", refuse)
    with pytest.raises(HostError):
        guest.unmap(PAGE, PAGE)
    assert guest.read(PAGE, 4) == b"kept"


def test_a_change_that_level_n_does_not_see(make: Callable[..., Run]) -> None:
    """L2 gives nothing of what L1 takes away."""
    run = make(scripted(), moved(reason="io", first=0x6000, last=0x6000), memory=8 * MIB)
    run.hypervisor(1).guest.unmap(6 * MIB, PAGE)
    assert remaps(run.engine) == [([(0, 4 * MIB, MIB, False, True)], [], [])]

"""The events that native/python/presenter.c makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from bare import Bare, loop
from fake_engine import writes
from hypothesis import given
from hypothesis import strategies as st
from scripted import Run, Scripted, scripted

from nestvmm._native import ffi
from nestvmm.hypervisors import HANDLED, Direction, Event, ExitReason, Result
from nestvmm.nesting import RunResult
from nestvmm.x86.exit_reason import REASONS, Qualifier

IO, CPUID = ExitReason.IO, ExitReason.CPUID
SIZE = ffi.sizeof("struct nv_event")
PHYSICAL = {reason for reason in ExitReason if REASONS[reason].qualifier is Qualifier.PHYSICAL}


@given(st.binary(min_size=SIZE, max_size=SIZE), st.sampled_from(ExitReason), st.integers(0, 2), st.integers(0, 254))
def test_each_field_is_the_events(content: bytes, reason: ExitReason, direction: int, level: int) -> None:
    engine = Bare()
    event = engine.vcpu.event
    ffi.memmove(ffi.addressof(event), content, SIZE)
    event.reason, event.direction, event.count = reason, direction, 1
    value = int(event.value).to_bytes(8, "little")
    carried = []

    def carry(space: int, address: int, to: int) -> int:
        carried.append((space, address, to))
        return 77

    assert loop(engine, carry).present(level) == Event(
        reason=reason,
        level=level + 1,
        qualifier=77 if reason in PHYSICAL else event.qualifier,
        direction=direction,
        size=event.size,
        count=1,
        value=event.value,
        data=value[: event.size] if direction == Direction.WRITE else b"",
        info=event.info,
        raw=event.raw,
        instruction=bytes(event.instruction)[: event.instruction_length],
        length=event.length,
    )
    assert carried == [(event.space, event.qualifier, level + 1)] * (reason in PHYSICAL)


# Of each field, what differs from each other.
VALUES: dict[str, tuple[Any, ...]] = {
    "reason": (IO, CPUID, ExitReason.MMIO),
    "direction": (0, 1, 2),
    "size": (4, 0, 1, 8),
    "count": (1, 2),
    "qualifier": (0, 1, 1 << 40),
    "value": (0, 1, 1 << 40),
    "info": (0, 1),
    "raw": (0, 1),
    "length": (0, 1),
    "handler": (0, 1),
    "instruction_length": (2, 0, 15, 200),
    "instruction": (b"\x0f\xa2", b"\x0f\xa3", bytes(15)),
}
FIELDS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})


def present_all(events: Iterable[tuple[dict[str, Any], bytes, bool]]) -> None:
    """Has a loop present one after the other (fields, data, whether it is kept), each as if it were the first."""
    engine = Bare()
    native = engine.vcpu.event
    one = loop(engine, lambda space, address, level: address + level)
    shown, kept, expected = [], [], []

    def look(event: Event) -> Result:
        shown.append(tuple(event))
        if keeps:
            kept.append(event)
        return HANDLED

    one.handlers = (look,)
    data = ffi.new("uint8_t[16]")
    native.data = data
    for fields, moved, keeps in events:
        data[0:16] = moved
        for name, value in fields.items():
            if name != "instruction":
                setattr(native, name, value)
        ffi.memmove(native.instruction, fields["instruction"], len(fields["instruction"]))
        one.ask()
        fresh = loop(engine, lambda space, address, level: address + level).present(native.handler)
        assert shown[-1] == tuple(fresh)
        if keeps:
            expected.append(fresh)
    assert kept == expected


@given(st.lists(st.tuples(FIELDS, st.binary(min_size=16, max_size=16), st.booleans()), max_size=12))
def test_an_event_shows_nothing_of_those_before(events: list[tuple[dict[str, Any], bytes, bool]]) -> None:
    present_all(events)


@pytest.mark.parametrize("count", VALUES["count"])
@pytest.mark.parametrize("direction", VALUES["direction"])
def test_an_event_that_differs_in_one_field_shows_it(direction: int, count: int) -> None:
    first = {name: values[0] for name, values in VALUES.items()} | {"direction": direction, "count": count}
    others = [first | {name: value} for name, values in VALUES.items() for value in values]
    present_all((fields, bytes([number] * 16), False) for number, pair in enumerate(others) for fields in (first, pair))


def test_an_address_that_a_level_does_not_have_is_level_ns() -> None:
    engine = Bare()
    engine.vcpu.event.reason, engine.vcpu.event.qualifier, engine.vcpu.event.count = ExitReason.MMIO, 0x5000, 1
    assert loop(engine).present(1).qualifier == 0x5000


def test_what_carries_an_address_may_fail() -> None:
    def carry(space: int, address: int, level: int) -> int:
        raise KeyError(address)

    engine = Bare()
    engine.vcpu.event.reason = ExitReason.MMIO
    with pytest.raises(KeyError):
        loop(engine, carry).present(1)


def test_there_is_no_such_reason_or_level() -> None:
    engine = Bare()
    one = loop(engine)
    for level in (-1, 255, 1 << 70):
        with pytest.raises((ValueError, OverflowError)):
            one.present(level)
    engine.vcpu.event.reason = len(ExitReason)
    with pytest.raises(ValueError, match=f"there is no reason {len(ExitReason)}"):
        one.present(1)


def test_events_that_are_kept_stay_as_they_are(make: Callable[..., Run]) -> None:
    run = make(scripted())
    exits = [writes(0x5000 + n, n, 2) for n in range(50)]
    assert run.go(*exits) == RunResult(0)
    seen = run.hypervisor(1).seen
    assert [(event.qualifier, event.value, event.data) for event in seen] == [
        (0x5000 + n, n, n.to_bytes(2, "little")) for n in range(50)
    ]
    assert all(type(event) is Event for event in seen)
    assert len({hash(event) for event in seen}) == 50


def test_events_that_nobody_keeps_are_told_apart(make: Callable[..., Run]) -> None:
    run = make(scripted())
    texts: list[str] = []
    hypervisor = run.hypervisor(1)

    def note(_: Scripted, event: Event) -> Result:
        hypervisor.seen.clear()
        texts.append(f"{event!r} {hash(event) == hash(Event(*event))}")
        return HANDLED

    hypervisor.behave = note
    assert run.go(*(writes(0x5000 + n, n) for n in range(5))) == RunResult(0)
    assert texts == [f"<io write {0x5000 + n:#x} size 1 count 1 value {n:#x} from L2> True" for n in range(5)]

"""Runs in a lab: levels below, between and above images step through their guests; prints what they saw, as JSON.

usage: mixed_step_cases.py svm|vmx [CASE ...]

Each case gives `expected`: where the guest stands behind each instruction that is an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import guest_code as guest
from debug_cases import EFER, FIRST, PORT_OFF, PORT_ON, TF, Walk, parts_of_add, parts_of_keep, parts_of_out
from event_cases import CLEAR_TF
from mixed_arriving import EVENT, VECTOR
from mixed_cases import Declining
from mixed_memory import AT, Device, Paging
from mixed_run import (
    CALL,
    ENGINE,
    GP,
    MARK,
    MINIVISOR,
    OWN_PORT,
    PORT,
    UD,
    Case,
    Counting,
    Level,
    Silent,
    main,
    own,
    run,
)

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result
from nestvmm.nesting import LevelSpec

STEP, BREAK = 1, 3
FLAGS = 0x4E59  # the hypercall by which a minivisor tells its guest's RFLAGS
SYSENTER_CS = 0x174  # of which no minivisor wants to hear
SVME = 0x1500  # with LME and LMA
STGI, CLGI, VMSAVE = b"\x0f\x01\xdc", b"\x0f\x01\xdd", b"\x0f\x01\xdb"
OUTSIDE = 0x40000000  # what a minivisor does not give
FIRST_OWN = FIRST + len(guest.done(UD)) + len(guest.DROP_ERROR_CODE + guest.done(GP))  # behind those that run() adds
CPUID, RDMSR, IN, PUSHF, POPF, INT3 = b"\x0f\xa2", b"\x0f\x32", b"\xec", b"\x9c", b"\x9d", b"\xcc"
TRAPPING = LevelSpec(image=MINIVISOR, append="level=1 traps")


class Tracing(Silent):
    """Sees each instruction, and INT3, between an OUT to `begin` and one to `end`; passes INT3 on.

    It keeps the vector, RIP from CODE on, the level, the trap flag.
    """

    begin, end = PORT_ON, PORT_OFF
    on = False

    def claims(self) -> Any:
        yield ExitReason.IO, self.begin, self.end, None, self.turn
        if self.on:
            yield ExitReason.DEBUG, STEP, BREAK, None, self.see

    def turn(self, event: Event) -> Result:
        self.on = event.qualifier == self.begin
        self.guest.claims_changed()
        return HANDLED

    def see(self, event: Event) -> Result:
        regs = self.guest.regs
        self.seen.append([event.qualifier, regs.rip - guest.CODE, event.level, regs.rflags & TF])
        return Result.declined() if event.qualifier == BREAK else HANDLED


class Lower(Tracing):
    """Begins and ends by ports of its own."""

    begin, end = PORT_ON + 2, PORT_OFF + 2


class Skipping(Tracing):
    """Its guest's INT3 does nothing."""

    def see(self, event: Event) -> Result:
        super().see(event)
        if event.qualifier == BREAK:
            self.guest.skip(1)
        return HANDLED


def step(
    names: Sequence[Level],
    walk: Walk,
    count: int = 4,
    handlers: Mapping[int, bytes] = MappingProxyType({}),
    designate: Sequence[str] = (),
) -> dict[str, Any]:
    return {**run(names, walk.end(), count, designate, handlers=handlers), "expected": walk.expected}


def plain() -> Walk:
    """PUSHF keeps no trap flag, POPF gives none; LOOP jumps to itself once."""
    walk = Walk().go(guest.NOP, guest.rcx(2), PUSHF, b"\x58", *parts_of_keep(0), PUSHF, POPF)
    walk.expected += [walk.at, walk.at + 2]
    return walk.go(b"\xe2\xfe", seen=False).go(guest.NOP)


def reading(port: int, number: int) -> list[bytes]:
    return [guest.rax(0), guest.rdx(port), IN, *parts_of_keep(number)]


def by_image(level: int) -> Walk:
    """What the minivisor at `level` does: CPUID, a hypercall that tells RFLAGS, an OUT and an IN."""
    walk = Walk().go(guest.rax(MARK + level), guest.rcx(0), CPUID, *parts_of_keep(0))
    walk.go(guest.rax(FLAGS), guest.rbx(level), CALL, *parts_of_keep(1))
    return walk.go(*parts_of_out(OWN_PORT + level, 3), *reading(OWN_PORT + level, 2), guest.NOP)


def by_port(port: int) -> Walk:
    """A port that is handled without a level between."""
    return Walk().go(guest.NOP, *reading(port, 0), *reading(port, 1), guest.NOP)


def twice(names: Sequence[Level]) -> dict[str, Any]:
    """The code of `by_image` at level 2, in which two levels step: level 3 also over the OUT that makes it begin."""
    walk = by_image(2)
    walk.expected.insert(0, walk.start)
    code = guest.out(Lower.begin, 0) + walk.end().removesuffix(guest.done()) + guest.out(Lower.end, 0) + guest.done()
    return {**run(names, code, 4), "expected": [at + len(guest.out(Lower.begin, 0)) for at in walk.expected]}


def by_l0() -> Walk:
    return Walk().go(guest.rcx(SYSENTER_CS), RDMSR, *parts_of_keep(0), *reading(0x80, 1), guest.NOP)


def by_svm() -> Walk:
    """The guest sets EFER.SVME, which the image hears of; what comes then L0 does."""
    walk = Walk().go(guest.rax(SVME), guest.rdx(0), guest.rcx(EFER), b"\x0f\x30")
    return walk.go(CLGI, guest.NOP, STGI, guest.rax(AT), VMSAVE, guest.NOP)


def by_next_image() -> Walk:
    """The image between does the CPUID: its instructions are seen, and the CPUID is none."""
    walk = Walk().go(guest.NOP, guest.rax(MARK + 3), guest.rcx(0))
    return walk.go(CPUID, seen=False).go(*parts_of_keep(0), guest.NOP)


KEEP_FLAGS = [*parts_of_add(0), b"\x48\x8b\x44\x24\x10", *parts_of_keep(1), guest.IRETQ]
TRAP = [*parts_of_add(0), b"\x50", b"\x57", b"\x0f\x21\xf0", *parts_of_keep(1), b"\x5f", b"\x58", guest.IRETQ]


def injected(names: Sequence[Level], *designate: str) -> dict[str, Any]:
    """The minivisor at level 1 injects an interrupt; its handler keeps the flags that it finds."""
    call = [guest.rax(EVENT), guest.rbx(1), guest.rcx(VECTOR), CALL]
    walk = Walk().go(guest.STI, *call).visit(FIRST_OWN, *KEEP_FLAGS).go(guest.NOP)
    return step(names, walk, handlers={VECTOR: b"".join(KEEP_FLAGS)}, designate=designate)


def breakpoint_(names: Sequence[Level]) -> dict[str, Any]:
    """INT3, whose handler is the guest's own."""
    walk = Walk().go(guest.NOP).go(INT3, seen=False).visit(FIRST_OWN, *KEEP_FLAGS).go(guest.NOP)
    return step(names, walk, handlers={BREAK: b"".join(KEEP_FLAGS)})


def skipped(names: Sequence[Level]) -> dict[str, Any]:
    walk = Walk().go(guest.NOP).go(INT3, seen=False).go(guest.NOP, *parts_of_keep(0))
    return step(names, walk)


def traps(names: Sequence[Level]) -> dict[str, Any]:
    """The guest steps itself, too: five instructions, one of which L0 does."""
    walk = Walk().go(guest.rcx(SYSENTER_CS), PUSHF, b"\x81\x0c\x24\0\x01\0\0", POPF)
    for part in (guest.NOP, RDMSR, CLEAR_TF[:1], CLEAR_TF[1:8], CLEAR_TF[8:]):
        walk.go(part).visit(FIRST_OWN, *TRAP)
    return step(names, walk, handlers={1: b"".join(TRAP)})


def paged() -> Walk:
    """A page that is given when the guest touches it."""
    return Walk().go(guest.rax(0x77), guest.rdi(AT), b"\x48\x89\x07", b"\x8b\x07", *parts_of_keep(0), guest.NOP)


def device() -> Walk:
    return Walk().go(guest.rdi(AT), b"\x8b\x07", *parts_of_keep(0), guest.rdi(AT), b"\x89\x07", guest.NOP)


def outside() -> Walk:
    return Walk().go(guest.rdi(OUTSIDE)).go(b"\x48\x89\x07", seen=False)


# Each takes the VMX lab many seconds, for what the others show of VMX.
SVM_ALONE: dict[str, Case] = {
    "plain above two images": lambda: step(["image", "image", Tracing], plain()),
    "the upper image does": lambda: step(["image", "image", Tracing], by_image(2)),
    "the lower image does": lambda: step(["image", "image", Tracing], by_port(OWN_PORT + 1)),
    "an interrupt through an image": lambda: injected(["image", "image", Tracing], "hypercall=L1"),
    "INT3 below an image": lambda: breakpoint_([Tracing, "image"]),
    "L0 does SVM's": lambda: step(["image", Tracing], by_svm()),
    "a level below alone": lambda: twice([Lower, "image", Silent]),
    "two levels": lambda: twice([Lower, "image", Tracing]),
}
CASES: dict[str, Case] = {
    "plain": lambda: step(["image", Tracing], plain()),
    "plain below an image": lambda: step([Tracing, "image"], plain()),
    "an image does": lambda: step(["image", Tracing], by_image(1)),
    "the image below does": lambda: step(["image", Tracing, "image"], by_port(OWN_PORT + 1)),
    "the image above does": lambda: step(["image", Tracing, "image"], by_next_image()),
    "a level below does": lambda: step([Counting, "image", Tracing], by_port(PORT)),
    "a level above does": lambda: step(["image", Tracing, Counting], by_port(PORT)),
    "a level declines": lambda: step(["image", Tracing, own(Declining, port=OWN_PORT + 1)], by_port(OWN_PORT + 1)),
    "L0 does": lambda: step(["image", Tracing], by_l0()),
    "an interrupt": lambda: injected(["image", Tracing]),
    "an interrupt below an image": lambda: injected(["image", Tracing, "image"], "hypercall=L1"),
    "INT3": lambda: breakpoint_(["image", Tracing]),
    "INT3 skipped": lambda: skipped(["image", Skipping]),
    "own traps": lambda: traps(["image", Tracing]),
    "own traps that an image sees": lambda: traps([TRAPPING, Tracing]),
    "pages": lambda: step(["image", Tracing, Paging], paged()),
    "a device": lambda: step(["image", Tracing, Device], device()),
    "outside": lambda: step(["image", Tracing], outside()),
    **(SVM_ALONE if ENGINE == "svm" else {}),
}


if __name__ == "__main__":
    main(CASES)

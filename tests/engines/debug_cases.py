"""Guests that a level steps through, and whose INT3 it takes: for every engine with a switcher.

Each gives `expected`: where the guest stands behind each instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from event_cases import CLEAR_TF, INJECTOR, TIMER
from exception_cases import LGDT, NEXT, TABLES, user
from guest_code import (
    CLI,
    CODE,
    HANDLERS,
    HLT,
    IRETQ,
    NOP,
    RESULTS,
    STI,
    UD2,
    add,
    done,
    keep,
    out,
    rax,
    rcx,
    rdi,
    rdx,
    rsi,
    with_handlers,
    wrmsr,
)
from reason_cases import run, watch

from nestvmm.hypervisors import HANDLED, Event, ExitReason, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec

HERE = f"{Path(__file__)}:"
PORT_ON, PORT_OFF = 0x6000, 0x6001
HOLE = 0xD0000000  # no memory of the guest's, but mapped where its tables say so
TF = 1 << 8
EFER, STAR, LSTAR, SFMASK = 0xC0000080, 0xC0000081, 0xC0000082, 0xC0000084


class Stepper(Hypervisor):
    """Claims debug events of these vectors between an OUT to PORT_ON and one to PORT_OFF; `does` says how it answers.

    does: handled, skip (one byte), decline, fault (#BP)
    """

    def __init__(self, first: int = 1, last: int = 1, does: str = "handled", limit: int = 1000) -> None:
        self._vectors = first, last
        self._does = does
        self._limit = limit
        self._on = False
        self.seen: list[list[int]] = []
        self.shapes: set[tuple[int, ...]] = set()

    def claims(self) -> list[HandlerClaim]:
        ports = [(ExitReason.IO, PORT_ON, PORT_OFF, None, self.turn)]
        return [*ports, *([(ExitReason.DEBUG, *self._vectors, None, self.step)] if self._on else [])]

    def turn(self, event: Event) -> Result:
        self._on = event.qualifier == PORT_ON
        self.guest.claims_changed()
        return HANDLED

    def step(self, event: Event) -> Result:
        regs = self.guest.regs
        shape = [event.qualifier, event.raw, event.info, event.value - regs.rip, event.size, int(event.direction)]
        self.seen.append([regs.rip - CODE, *shape, event.length, regs.rflags & TF])
        if len(self.seen) == self._limit:
            return Result.stopped(9, f"{self._limit} events")
        if self._does == "skip":
            self.guest.skip(1)
        if self._does == "fault":
            return Result.faulted(3)
        return Result.declined() if self._does == "decline" else HANDLED


class Memory(Hypervisor):
    """A device at HOLE that reads as 0x5a5a5a5a; keeps what is written."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.MMIO, HOLE, HOLE + 0xFFF, None, self.act)]

    def act(self, event: Event) -> Result:
        self.seen.append([event.qualifier - HOLE, int(event.direction), event.size, event.value])
        return Result.read(0x5A5A5A5A) if not event.direction else HANDLED


def behind(start: int, parts: Sequence[bytes]) -> list[int]:
    """Where each instruction ends."""
    return list(accumulate(map(len, parts), initial=start))[1:]


def parts_of_out(port: int, value: int = 0) -> list[bytes]:
    return [rax(value), rdx(port), b"\xee"]


def parts_of_keep(number: int) -> list[bytes]:
    return [rdi(RESULTS + 8 * number), b"\x48\x89\x07"]


def parts_of_add(number: int) -> list[bytes]:
    return [b"\x57", rdi(RESULTS + 8 * number), b"\x48\x83\x07\x01", b"\x5f"]


ON, OFF = out(PORT_ON, 0), parts_of_out(PORT_OFF)


class Walk:
    """A guest's code, and where it will be seen: `code` after each other, `jump` elsewhere."""

    def __init__(self, start: int = NEXT) -> None:
        self.start = start + len(ON)
        self.at = self.start
        self.code = ON
        self.expected: list[int] = []

    def go(self, *parts: bytes, seen: bool = True) -> Walk:
        """These instructions, each of which is an event."""
        if seen:
            self.expected += behind(self.at, parts)
        self.code += b"".join(parts)
        self.at += sum(map(len, parts))
        return self

    def visit(self, at: int, *parts: bytes) -> Walk:
        """Behind a handler's instructions, the last of which leads back."""
        self.expected += [*behind(at, parts[:-1]), self.at]
        return self

    def end(self) -> bytes:
        """Nobody steps any more; the OUT that says so is the level's event first."""
        self.expected += behind(self.at, OFF[:2])
        return self.code + b"".join(OFF) + done()


FIRST = HANDLERS - CODE  # the first handler
STEPPER = LevelSpec(HERE + "Stepper")


def step(
    engine: str,
    walk: Walk,
    levels: Sequence[LevelSpec] = (),
    handlers: dict[int, bytes] | None = None,
    count: int = 4,
    **more: object,
) -> dict[str, object]:
    code = with_handlers(walk.end(), handlers or {})
    found = run(engine, code, [STEPPER, *levels], count, **more)  # type: ignore[arg-type]
    return {**found, "expected": walk.expected}


def plain(engine: str) -> dict[str, object]:
    """Two jumps, one of them to itself twice; PUSHF keeps no trap flag, POPF gives none."""
    walk = Walk().go(NOP, rcx(2), b"\x9c", b"\x58", *parts_of_keep(0), b"\xeb\x00", b"\x9c", b"\x9d")
    loop = walk.at
    walk.go(b"\xe2\xfe", seen=False)
    walk.expected += [loop, walk.at]
    return step(engine, walk)


def interrupts(engine: str) -> dict[str, object]:
    """INTn: the pushed flags have no trap flag, and the handler is stepped too."""
    flags = [b"\x48\x8b\x44\x24\x10", *parts_of_keep(0), IRETQ]
    walk = Walk().go(NOP).go(b"\xcd\x55", seen=False).visit(FIRST, *flags).go(NOP)
    return step(engine, walk, handlers={0x55: b"".join(flags)})


def faults(engine: str) -> dict[str, object]:
    """#UD, whose handler goes on two bytes further."""
    body = [b"\x48\x8b\x44\x24\x10", *parts_of_keep(0), b"\x48\x83\x04\x24\x02", IRETQ]
    walk = Walk().go(NOP).go(UD2, seen=False).visit(FIRST, *body).go(NOP)
    return step(engine, walk, handlers={6: b"".join(body)})


def shadows(engine: str) -> dict[str, object]:
    """No trap comes behind MOV SS; and the PUSHF there keeps no trap flag."""
    walk = Walk().go(LGDT, rax(0x18), NOP)
    walk.go(b"\x8e\xd0\x9c", b"\x58", *parts_of_keep(0), STI, NOP, CLI)
    return step(engine, walk, memory=TABLES)


def own_traps(engine: str) -> dict[str, object]:
    """The guest steps itself too: over NOP, and three more until it stops; its handler counts."""
    trap = [*parts_of_add(0), b"\x50", b"\x57", b"\x0f\x21\xf0", *parts_of_keep(1), b"\x5f", b"\x58", IRETQ]
    walk = Walk().go(b"\x9c", b"\x81\x0c\x24\0\x01\0\0", b"\x9d")
    for part in (NOP, CLEAR_TF[:1], CLEAR_TF[1:8], CLEAR_TF[8:]):
        walk.go(part).visit(FIRST, *trap)
    return step(engine, walk, handlers={1: b"".join(trap)})


def own_trap_and_cpuid(engine: str) -> dict[str, object]:
    """Likewise over a CPUID that a level does."""
    trap = [*parts_of_add(0), IRETQ]
    walk = Walk().go(b"\x9c", b"\x81\x0c\x24\0\x01\0\0", b"\x9d")
    for part in (b"\x0f\xa2", CLEAR_TF[:1], CLEAR_TF[1:8], CLEAR_TF[8:]):
        walk.go(part).visit(FIRST, *trap)
    return step(engine, walk, [watch("cpuid")], {1: b"".join(trap)})


def handled(engine: str) -> dict[str, object]:
    """CPUID by a level, CPUID by L0, an MSR, a port by its bitmap."""
    walk = Walk().go(rax(0x40000123), b"\x0f\xa2", *parts_of_keep(0), rax(0), b"\x0f\xa2", NOP)
    walk.go(rcx(0x174), b"\x0f\x32", rax(0), rdx(0x5000), b"\xec", *parts_of_keep(1))
    levels = [watch("cpuid", first=0x40000123, last=0x40000123), watch("io", first=0x5000, last=0x5000)]
    return step(engine, walk, levels, io_intercepts=True)


def accesses(engine: str) -> dict[str, object]:
    """A device's memory, read, written and by a string."""
    walk = Walk().go(rdi(HOLE), b"\x8b\x07", b"\x89\x47\x08", rcx(2), b"\xf3\xab", NOP)
    return step(engine, walk, [LevelSpec(HERE + "Memory")])


def ports(engine: str) -> dict[str, object]:
    """OUTS of three elements."""
    walk = Walk().go(rdx(0x5000), rsi(RESULTS), rcx(3)).go(b"\xf3\x6e", NOP)
    return step(engine, walk, [watch("io", "handled", first=0x5000, last=0x5003)])


def system_calls(engine: str) -> dict[str, object]:
    """SYSCALL from CPL 3, with the trap flag in SFMASK, and SYSRET: R11 and SFMASK are the guest's."""
    mask = [b"\x51", rcx(SFMASK), b"\x0f\x32", *parts_of_keep(1), b"\x59"]
    kernel = [b"\x4c\x89\xd8", *parts_of_keep(0), *mask, b"\x48\x0f\x07"]
    msrs = wrmsr(EFER, 0x501) + wrmsr(STAR, 0x18 << 48 | 0x10 << 32) + wrmsr(LSTAR, HANDLERS + 0x100)
    msrs += wrmsr(SFMASK, 0x300)
    prefix = msrs + user(b"")
    walk = Walk(NEXT + len(prefix)).go(NOP).go(b"\x0f\x05", seen=False)
    walk.expected.append(FIRST + 0x100)
    walk.visit(FIRST + 0x100, *kernel).go(NOP)
    code = with_handlers(prefix + walk.end(), {0: b"".ljust(0x100, NOP) + b"".join(kernel)})
    return {**run(engine, code, [STEPPER], 4, TABLES), "expected": walk.expected}


def injected(engine: str) -> dict[str, object]:
    """Another level's interrupt, which waits for STI and the instruction behind it."""
    body = [*parts_of_add(0), IRETQ]
    walk = Walk().go(CLI, *parts_of_out(0x5001), NOP, STI, NOP).visit(FIRST, *body).go(NOP)
    return step(engine, walk, [INJECTOR], {0x41: b"".join(body)})


def windows(engine: str) -> dict[str, object]:
    """Another level's windows, for an interrupt and for an NMI; an exception that it injects."""
    body = [b"\x58", *parts_of_keep(0), IRETQ]
    walk = Walk().go(CLI, *parts_of_out(0x5003), NOP, STI, NOP, NOP, *parts_of_out(0x5004), NOP)
    walk.go(*parts_of_out(0x5000)).visit(FIRST, *body).go(NOP)
    # the OUT itself is behind the guest when the exception comes
    return step(engine, walk, [INJECTOR], {13: b"".join(body)})


def halts(engine: str) -> dict[str, object]:
    """HLT ends by the timer's tick, whose handler is stepped as well."""
    end = [rax(0x20), rdx(0x20), b"\xee"]
    body = [b"\x50", b"\x52", *parts_of_add(0), *end, b"\x5a", b"\x58", IRETQ]
    code = CLI + TIMER
    walk = Walk(NEXT + len(code)).go(STI, HLT).visit(FIRST, *body).go(CLI)
    guest = with_handlers(code + walk.end(), {0x20: b"".join(body)})
    return {**run(engine, guest, [STEPPER], machine="pc"), "expected": walk.expected}


def refused(engine: str) -> dict[str, object]:
    """At CPL 3 HLT raises #GP, whose handler is stepped as well."""
    body = [b"\x58", *parts_of_keep(0), b"\x48\xff\x04\x24", *parts_of_add(1), IRETQ]
    prefix = user(b"")
    walk = Walk(NEXT + len(prefix)).go(NOP).go(HLT, seen=False).visit(FIRST, *body).go(NOP)
    code = with_handlers(prefix + walk.end(), {13: b"".join(body)})
    return {**run(engine, code, [STEPPER], 2, TABLES, machine="pc"), "expected": walk.expected}


def breakpoint_(engine: str, does: str, levels: Sequence[LevelSpec] = ()) -> dict[str, object]:
    """INT3 between two NOPs; the guest's own handler keeps where it came from."""
    body = add(0) + b"\x48\x8b\x04\x24" + keep(1) + (b"\x48\xff\x04\x24" if does == "fault" else b"") + IRETQ
    code = with_handlers(ON + NOP + b"\xcc" + NOP + b"".join(OFF) + done(), {3: body})
    level = LevelSpec(HERE + "Stepper", {"first": 3, "last": 3, "does": does, "limit": 2})
    return {**run(engine, code, [level, *levels]), "expected": [NEXT + len(ON) + 1]}


CASES = {
    "steps": plain,
    "steps into INTn": interrupts,
    "steps into a fault": faults,
    "steps over a shadow": shadows,
    "steps with traps": own_traps,
    "steps with traps, CPUID": own_trap_and_cpuid,
    "steps over exits": handled,
    "steps over accesses": accesses,
    "steps over strings of ports": ports,
    "steps over SYSCALL": system_calls,
    "steps and an interrupt": injected,
    "steps and windows": windows,
    "steps over HLT": halts,
    "steps into a HLT that faults": refused,
    **{
        f"breakpoint, {does}": (lambda engine, does=does: breakpoint_(engine, does))
        for does in ("handled", "skip", "decline", "fault")
    },
}

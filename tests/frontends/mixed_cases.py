"""Runs in the SVM lab: towers of minivisors and Python hypervisors; prints how each ended, as JSON.

usage: mixed_cases.py [CASE ...]

A tower is a list of levels, the lowest first: "image" is a minivisor, anything else a Python hypervisor of this file.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import guest_code as guest
from image_writers import Elf, Segment
from print_cases import print_cases

from nestvmm.hypervisors import HANDLED, Direction, Event, ExitReason, GuestAccessError, Hypervisor, Result
from nestvmm.nesting import Account, Clock, GuestSpec, LevelSpec, Runner, Tower, TowerSpec
from nestvmm.nesting.features.feature import OUR_LEAF
from nestvmm.nesting.features.msr_block import ID, LEVEL, SCRATCH
from nestvmm.nesting.image_guest import MachineMemory
from nestvmm.trace import Recorder

GUESTS = Path(__file__).resolve().parents[2] / "guests"
MINIVISOR = GUESTS / "minivisor" / "minivisor-svm.elf"
MEMORY = 24 << 20
PORT, MSR, LEAF = 0x5000, 0xC0000103, 0x4E567000
MARK, HYPERCALL, OWN_PORT = 0x4E560000, 0x4E56, 0x5600
TIMES = 50
VMMCALL = b"\x0f\x01\xd9"
UD, GP = 6, 13


class Silent(Hypervisor):
    """Claims nothing, and hears of effects."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.heard: list[list[int]] = []

    def propagated(self, event: Event, value: int) -> None:
        self.heard.append([event.level, event.qualifier, value])

    def note(self, event: Event) -> None:
        self.seen.append([event.level, event.qualifier, event.direction, event.size, event.value])


class Counting(Silent):
    """Its port reads as how often it was accessed."""

    def __init__(self, port: int = PORT) -> None:
        super().__init__()
        self.port = port

    def claims(self) -> Any:
        yield ExitReason.IO, self.port, self.port, None, self.access

    def access(self, event: Event) -> Result:
        self.note(event)
        return Result.read(len(self.seen)) if event.direction == Direction.READ else HANDLED


class Declining(Counting):
    def access(self, event: Event) -> Result:
        self.note(event)
        return Result.declined()


class Handing(Counting):
    """Hands its port's events to level 1."""

    def access(self, event: Event) -> Result:
        self.note(event)
        return Result.reflected(1)


class Faulting(Counting):
    """Its port is not its guest's to read."""

    def access(self, event: Event) -> Result:
        self.note(event)
        return Result.faulted(GP, 0)


class Writing(Counting):
    """IN from its port also changes memory and a register of its guest; it remembers what was in that memory."""

    def access(self, event: Event) -> Result:
        self.note(event)
        self.seen.append(list(self.guest.read(guest.RESULTS + 0x200, 8)))
        self.guest.write(guest.RESULTS + 0x100, b"written!")
        try:
            self.guest.write(1 << 40, b"nowhere")
        except GuestAccessError as error:
            self.heard.append([str(error)])  # type: ignore[list-item]
        regs = self.guest.regs
        regs.rbx = 0x0123456789ABCDEF
        self.guest.set_regs(regs)
        return Result.read(0x5A)


class Instructions(Silent):
    """A leaf of CPUID, a hypercall, an MSR and an exception of its guest's."""

    def claims(self) -> Any:
        yield ExitReason.CPUID, LEAF, LEAF, None, self.cpuid_leaf
        yield ExitReason.HYPERCALL, 0x1234, 0x1234, None, self.hypercall
        yield ExitReason.RDMSR, MSR, MSR, None, self.read_msr
        yield ExitReason.EXCEPTION, UD, UD, None, self.undefined

    def _answer(self, event: Event, length: int = 0) -> Result:
        self.note(event)
        regs = self.guest.regs
        regs.rax = 0x1000 * event.reason + self.guest.level
        self.guest.set_regs(regs)
        if length:
            self.guest.skip(length)
        return HANDLED

    def cpuid_leaf(self, event: Event) -> Result:
        return self._answer(event)

    def hypercall(self, event: Event) -> Result:
        return self._answer(event)

    def undefined(self, event: Event) -> Result:
        return self._answer(event, 2)

    def read_msr(self, event: Event) -> Result:
        self.note(event)
        return Result.read(0x1122334455667788)


class Reaching(Counting):
    """Tries what only the image below may do."""

    def access(self, event: Event) -> Result:
        for act in (
            lambda: self.guest.map(0, 0x1000, 0),
            lambda: self.guest.unmap(0, 0x1000),
            lambda: self.guest.interrupt(0x40),
            self.guest.nmi,
            self.guest.request_interrupt_window,
        ):
            try:
                act()
            except ValueError as error:
                self.heard.append([str(error)])  # type: ignore[list-item]
        return HANDLED


def levels_of(names: Sequence[str | LevelSpec]) -> tuple[LevelSpec, ...]:
    levels = []
    for number, name in enumerate(names, start=1):
        if isinstance(name, LevelSpec):
            levels.append(name)
        elif name == "image":
            levels.append(LevelSpec(image=MINIVISOR, append=f"level={number}"))
        else:
            levels.append(LevelSpec(f"{__file__}:{name}"))
    return tuple(levels)


def own(name: str, **options: int) -> LevelSpec:
    return LevelSpec(f"{__file__}:{name}", options)


def hidden(name: str, *features: str) -> LevelSpec:
    return LevelSpec(f"{__file__}:{name}", expose=features)


def elf(code: bytes) -> bytes:
    """#UD and #GP end the run with their vector."""
    handlers = {UD: guest.done(UD), GP: guest.DROP_ERROR_CODE + guest.done(GP)}
    image = guest.with_handlers(code + guest.done(), handlers)
    room = bytes(guest.RESULTS + 0x1000 - guest.CODE - len(image))
    return Elf(entry=guest.CODE, segments=[Segment(image + room, guest.CODE)]).write()


def run(
    names: Sequence[str | LevelSpec], code: bytes, count: int = 0, designate: Sequence[str] = (), trace: bool = False
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        kernel = Path(folder) / "guest.elf"
        kernel.write_bytes(elf(code))
        spec = TowerSpec(GuestSpec(kernel, memory=MEMORY), levels_of(names), tuple(designate), engine="svm", timeout=20)
        clock = Clock()
        with Tower(spec, stdout=out.fileno()) as tower:
            lines = Path(folder) / "trace"
            if trace:
                with Recorder(lines, tower, clock) as writer:
                    result = Runner(tower, drain=writer.drain).run(stdout=out.fileno())
            else:
                result = Runner(tower).run(stdout=out.fileno())
            account = Account.of(tower, clock, 1.0)
            kept = MachineMemory(tower.height, tower.engine).read(guest.RESULTS, 8 * count)
            last = [_last(tower, level) for level in range(1, tower.height)]
        out.seek(0)
        return {
            "status": result.status,
            "message": result.message,
            "out": out.read().decode(),
            "kept": list(struct.unpack(f"<{count}Q", kept)),
            "seen": [getattr(one, "seen", None) for one in tower.hypervisors],
            "heard": [getattr(one, "heard", None) for one in tower.hypervisors],
            "last": last,
            "rows": [[row.level, row.who, row.reason, row.count] for row in account.rows],
            "unclaimed": [[one.reason, one.qualifier, one.count] for one in account.unclaimed],
            "images": [[one.level, one.who, one.exits, one.entries, one.served] for one in account.images],
            "exits": account.exits,
            "trace": [json.loads(line) for line in lines.read_text().splitlines()] if trace else [],
        }


def _last(tower: Tower, level: int) -> list[int | None]:
    """What the hypervisor at `level` sees of PORT's effects."""
    one = tower.hypervisors[level - 1]
    return [one.guest.last(ExitReason.IO, PORT), one.guest.last(ExitReason.IO, PORT, write=True)]


def hypercall(number: int, level: int = 0, value: int = 0) -> bytes:
    return guest.rax(number) + guest.rbx(level) + guest.rcx(value) + VMMCALL


def asks(level: int) -> bytes:
    """What a minivisor at `level` answers: its mark, a hypercall and its port, in results 0 to 2."""
    return (
        guest.cpuid(MARK + level)
        + guest.keep(0)
        + hypercall(HYPERCALL, level, 7)
        + guest.keep(1)
        + guest.out(OWN_PORT + level, 3)
        + guest.inp(OWN_PORT + level)
        + guest.keep(2)
    )


READ_PORT = guest.inp(PORT) + guest.keep(0)
TOWERS = {
    "P": ["Counting"],
    "M": ["image"],
    "PM": ["Counting", "image"],
    "MP": ["image", "Counting"],
    "MPM": ["image", "Counting", "image"],
    "PMPM": ["Counting", "image", "Silent", "image"],
    "MMPPM": ["image", "image", "Silent", "Counting", "image"],
}
INSTRUCTIONS = (
    guest.cpuid(LEAF)
    + guest.keep(0)
    + hypercall(0x1234)
    + guest.keep(1)
    + guest.rdmsr(MSR)
    + guest.keep(2)
    + guest.UD2
    + guest.keep(3)
)
ONE = (
    guest.rdmsr(ID)
    + guest.keep(0)
    + guest.rdmsr(LEVEL)
    + guest.keep(1)
    + guest.wrmsr(SCRATCH[0], 0x1122334455667788)
    + guest.rdmsr(SCRATCH[0])
    + guest.keep(2)
)


def port_2(name: str) -> list[str | LevelSpec]:
    """The port of the minivisor at level 2, claimed by Counting at level 1 and by `name` at level 3."""
    return [own("Counting", port=OWN_PORT + 2), "image", own(name, port=OWN_PORT + 2)]


TWICE = guest.out(OWN_PORT + 2, 3) + guest.inp(OWN_PORT + 2) + guest.keep(0) + guest.inp(OWN_PORT + 2) + guest.keep(1)

CASES: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"reads in {name}": lambda names=names: run(names, READ_PORT, 1) for name, names in TOWERS.items()},
    **{
        f"{count} reads in {name}": lambda names=TOWERS[name], count=count: run(
            names, guest.repeat(count, guest.inp(PORT)) + guest.keep(0), 1
        )
        for name in ("PM", "MP", "MPM")
        for count in (1, TIMES + 1)
    },
    **{f"asks {level}": lambda level=level: run(TOWERS["PMPM"], asks(level), 3) for level in (2, 4)},
    "nobody": lambda: run(TOWERS["MPM"], guest.inp(0xE9) + guest.keep(0) + guest.inp(0x61F0, 2) + guest.keep(1), 2),
    "highest of two": lambda: run(["Counting", "image", "Counting"], READ_PORT, 1),
    "image below a claim": lambda: run(port_2("Counting"), TWICE, 2),
    "image above a claim": lambda: run([own("Counting", port=OWN_PORT + 2), "image", "Silent"], TWICE, 2),
    "declined to an image": lambda: run(port_2("Declining"), TWICE, 2),
    "strings declined to an image": lambda: run(
        port_2("Declining"), guest.store(guest.RESULTS + 8, 5) + guest.outs(OWN_PORT + 2, guest.RESULTS + 8, 1)
    ),
    "declined past an image": lambda: run(["Counting", "image", "Declining"], READ_PORT, 1),
    "handed past an image": lambda: run(["Counting", "Counting", "image", "Handing"], READ_PORT, 1),
    "designated below an image": lambda: run(port_2("Silent")[:2], TWICE, 2, [f"io:{OWN_PORT + 2:#x}=L1"]),
    "designated to an image": lambda: run(port_2("Counting"), TWICE, 2, [f"io:{OWN_PORT + 2:#x}=L2"]),
    "transformed": lambda: run(["Counting", "image", "Silent"], guest.out(PORT, 0x1234, 2)),
    "propagated": lambda: run(
        ["Silent", "image", "Counting", "image", "Silent"], guest.inp(PORT) + guest.out(PORT, 0x77)
    ),
    "instructions": lambda: run(["image", "image", "Instructions"], INSTRUCTIONS, 4),
    "instructions between": lambda: run(["image", "Instructions", "image"], guest.cpuid(LEAF) + guest.keep(0), 1),
    "instructions that no image wants": lambda: run(
        ["Instructions", "image", "image"], guest.rdmsr(MSR) + guest.keep(0) + guest.UD2 + guest.keep(1), 2
    ),
    "faulting": lambda: run(["image", "Faulting", "image"], READ_PORT, 1),
    "writing": lambda: run(
        ["image", "Writing", "image", "Silent"],
        guest.store(guest.RESULTS + 0x200, 0x0807060504030201)
        + guest.rbx(5)
        + guest.inp(PORT)
        + guest.keep(0)
        + guest.keep_rbx(1)
        + guest.load(guest.RESULTS + 0x100)
        + guest.keep(2),
        3,
    ),
    "writing at the top": lambda: run(
        ["image", "image", "Writing"],
        guest.store(guest.RESULTS + 0x200, 0x0807060504030201)
        + guest.inp(PORT)
        + guest.load(guest.RESULTS + 0x100)
        + guest.keep(0),
        1,
    ),
    "reaching": lambda: run(["image", "Reaching"], guest.inp(PORT)),
    "features": lambda: run(
        TOWERS["PMPM"], guest.cpuid(1) + guest.keep_all(0) + guest.cpuid(OUR_LEAF + 1) + guest.keep_all(4) + ONE, 8
    ),
    **{
        f"{count} uses of a feature": lambda count=count: run(
            TOWERS["MPM"], guest.repeat(count, guest.rdmsr(ID)) + guest.keep(0), 1
        )
        for count in (1, TIMES + 1)
    },
    "feature at each height": lambda: run(["image", "image", "image"], ONE, 3),
    "feature off": lambda: run([hidden("Silent", "-msr_block"), "image", "image"], ONE, 1),
    "traced": lambda: run(TOWERS["MPM"], READ_PORT + asks(3), 3, trace=True),
}


if __name__ == "__main__":
    print_cases(CASES, sys.argv[1:])

"""Runs in a lab: towers of minivisors and Python hypervisors; prints how each ended, as JSON.

usage: mixed_cases.py svm|vmx [CASE ...]
"""

from __future__ import annotations

from typing import Any

import guest_code as guest
import mixed_arriving
import mixed_designated
import mixed_interrupts
import mixed_memory
import mixed_timers
from mixed_run import (
    ENGINE,
    GP,
    OWN_PORT,
    PORT,
    UD,
    Case,
    Counting,
    Level,
    Silent,
    asks,
    hidden,
    hypercall,
    main,
    own,
    run,
)

from nestvmm.hypervisors import HANDLED, Event, ExitReason, GuestAccessError, Result
from nestvmm.nesting.features.feature import OUR_LEAF
from nestvmm.nesting.features.msr_block import ID, LEVEL, SCRATCH

MSR, LEAF = 0xC0000103, 0x4E567000
TIMES = 50


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
            lambda: self.guest.line(1, True),
            lambda: self.guest.request_timer(1000),
            lambda: self.guest.interrupt(256),
        ):
            try:
                act()
            except ValueError as error:
                self.heard.append([str(error)])  # type: ignore[list-item]
        return HANDLED


READ_PORT = guest.inp(PORT) + guest.keep(0)
TOWERS = {
    "P": [Counting],
    "M": ["image"],
    "PM": [Counting, "image"],
    "MP": ["image", Counting],
    "MPM": ["image", Counting, "image"],
    "PMPM": [Counting, "image", Silent, "image"],
    "MMPPM": ["image", "image", Silent, Counting, "image"],
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


def port_2(name: type[Counting]) -> list[Level]:
    """The port of the minivisor at level 2, claimed by Counting at level 1 and by another one at level 3."""
    return [own(Counting, port=OWN_PORT + 2), "image", own(name, port=OWN_PORT + 2)]


TWICE = guest.out(OWN_PORT + 2, 3) + guest.inp(OWN_PORT + 2) + guest.keep(0) + guest.inp(OWN_PORT + 2) + guest.keep(1)

CASES: dict[str, Case] = {
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
    "highest of two": lambda: run([Counting, "image", Counting], READ_PORT, 1),
    "image below a claim": lambda: run(port_2(Counting), TWICE, 2),
    "image above a claim": lambda: run([own(Counting, port=OWN_PORT + 2), "image", Silent], TWICE, 2),
    "declined to an image": lambda: run(port_2(Declining), TWICE, 2),
    "plain strings to an image": lambda: run(
        port_2(Silent)[:2],
        guest.store(guest.RESULTS + 8, 5) + guest.outs(OWN_PORT + 2, guest.RESULTS + 8, 1),
    ),
    "strings declined to an image": lambda: run(
        port_2(Declining), guest.store(guest.RESULTS + 8, 5) + guest.outs(OWN_PORT + 2, guest.RESULTS + 8, 1)
    ),
    "declined past an image": lambda: run([Counting, "image", Declining], READ_PORT, 1),
    "handed past an image": lambda: run([Counting, Counting, "image", Handing], READ_PORT, 1),
    "designated below an image": lambda: run(port_2(Silent)[:2], TWICE, 2, [f"io:{OWN_PORT + 2:#x}=L1"]),
    "designated to an image": lambda: run(port_2(Counting), TWICE, 2, [f"io:{OWN_PORT + 2:#x}=L2"]),
    "transformed": lambda: run([Counting, "image", Silent], guest.out(PORT, 0x1234, 2)),
    "propagated": lambda: run([Silent, "image", Counting, "image", Silent], guest.inp(PORT) + guest.out(PORT, 0x77)),
    "instructions": lambda: run(["image", "image", Instructions], INSTRUCTIONS, 4),
    "instructions between": lambda: run(["image", Instructions, "image"], guest.cpuid(LEAF) + guest.keep(0), 1),
    "instructions that no image wants": lambda: run(
        [Instructions, "image", "image"], guest.rdmsr(MSR) + guest.keep(0) + guest.UD2 + guest.keep(1), 2
    ),
    "faulting": lambda: run(["image", Faulting, "image"], READ_PORT, 1),
    "writing": lambda: run(
        ["image", Writing, "image", Silent],
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
        ["image", "image", Writing],
        guest.store(guest.RESULTS + 0x200, 0x0807060504030201)
        + guest.inp(PORT)
        + guest.load(guest.RESULTS + 0x100)
        + guest.keep(0),
        1,
    ),
    "reaching": lambda: run(["image", Reaching], guest.inp(PORT)),
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
    "feature off": lambda: run([hidden(Silent, "-msr_block"), "image", "image"], ONE, 1),
    "traced": lambda: run(TOWERS["MPM"], READ_PORT + asks(3), 3, trace=True),
    **mixed_memory.CASES,
    **mixed_interrupts.CASES,
    **mixed_arriving.CASES,
    **mixed_designated.CASES,
    **(mixed_timers.CASES if ENGINE == "vmx" else {}),
}


if __name__ == "__main__":
    main(CASES)

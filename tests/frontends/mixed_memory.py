"""Cases of mixed_cases.py: what Python levels above an image give of its guest's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import guest_code as guest
from mixed_run import ENGINE, HYPERCALL, OWN_PORT, PORT, Case, Counting, Level, Silent, asks, hypercall, own, run

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result
from nestvmm.nesting.memory import Region
from nestvmm.x86.rights import Rights

PAGE = 0x1000
AT, OTHER = 0x600000, 0x700000
OFFSET = 2 << 20  # a minivisor's guest has its memory from here on
RETURN = 0xC3


class Paging(Silent):
    """Gives pages from AT on when they are touched."""

    at = AT

    def claims(self) -> Any:
        yield ExitReason.NESTED_PAGE_FAULT, self.at, self.at + 4 * PAGE - 1, None, self.fault

    def start(self, guest: Any) -> None:
        super().start(guest)
        self.guest.unmap(self.at, 4 * PAGE)

    def fault(self, event: Event) -> Result:
        self.note(event)
        page = event.qualifier & -PAGE
        self.guest.map(page, PAGE, page)
        return HANDLED


class PagingBetween(Paging):
    at = AT + OFFSET


class Logging(Paging):
    """Lets its guest write, and execute, a page when it does so first."""

    def start(self, guest: Any) -> None:
        Silent.start(self, guest)
        self.guest.protect(self.at, 4 * PAGE, Rights.READ)

    def fault(self, event: Event) -> Result:
        self.note(event)
        more = Rights.WRITE if event.direction == 1 else Rights.EXECUTE
        given = Rights.READ if len(self.seen) == 1 else Rights.READ | Rights.WRITE
        self.guest.protect(event.qualifier & -PAGE, PAGE, given | more)
        return HANDLED


class Refusing(Paging):
    """Leaves every fault to the levels below."""

    def fault(self, event: Event) -> Result:
        self.note(event)
        return Result.declined()


class Shifting(Counting):
    """Its guest has OTHER's pages at AT; each access to its port takes the next page there."""

    def start(self, guest: Any) -> None:
        super().start(guest)
        self.guest.map(AT, PAGE, OTHER)

    def access(self, event: Event) -> Result:
        self.note(event)
        self.heard.append([self.guest.read(AT, 1)[0]])
        self.guest.map(AT, PAGE, OTHER + len(self.seen) * PAGE)
        self.heard.append([self.guest.read(AT, 1)[0]])
        self.guest.write(AT + 8, bytes([0x10 + len(self.seen)]))
        return Result.read(len(self.seen))


class PagingOther(Paging):
    at = OTHER


class Device(Silent):
    """A register at AT that reads as how often it was accessed."""

    def claims(self) -> Any:
        yield ExitReason.MMIO, AT, AT + 7, None, self.access

    def access(self, event: Event) -> Result:
        self.note(event)
        return Result.read(len(self.seen))


VMRUN, VMPTRLD = 0x80, 21
BEHIND_RSP = b"\x0f\xc7\x74\x24"  # VMPTRLD of a pointer at RSP and a byte more, as minivisor does it


class Taking(Silent):
    """Takes the control block away that its guest entered the next level with, at an access to PORT."""

    def __init__(self) -> None:
        super().__init__()
        self.block = 0

    def claims(self) -> Any:
        reason = ExitReason.SVM_INSTRUCTION if ENGINE == "svm" else ExitReason.VMX_INSTRUCTION
        yield reason, 0, (1 << 64) - 1, None, self.instruction
        yield ExitReason.IO, PORT, PORT, None, self.access

    def instruction(self, event: Event) -> Result:
        regs = self.guest.regs
        if ENGINE == "svm" and event.raw == VMRUN:
            self.block = regs.rax
        if ENGINE == "vmx" and event.raw == VMPTRLD:
            *code, offset = self.guest.read(regs.rip, 5)
            if bytes(code) != BEHIND_RSP:
                raise ValueError(f"VMPTRLD by other instruction bytes: {bytes(code).hex()}")
            self.block = int.from_bytes(self.guest.read(regs.rsp + offset, 8), "little")
        return Result.declined()

    def access(self, event: Event) -> Result:
        self.note(event)
        self.guest.unmap(self.block, PAGE)
        return Result.read(1)


class Lending(Taking):
    """And gives it back when somebody needs it."""

    def claims(self) -> Any:
        yield from super().claims()
        yield ExitReason.NESTED_PAGE_FAULT, 0, (1 << 52) - 1, None, self.fault

    def fault(self, event: Event) -> Result:
        self.note(event)
        self.heard.append([event.qualifier - self.block])
        self.guest.map(self.block, PAGE, self.block)
        return HANDLED


TOUCHES = (
    guest.store(AT + 8, 0x1111)
    + guest.load(AT + PAGE)
    + guest.keep(0)
    + guest.load(AT + 8)
    + guest.keep(1)
    + guest.store(AT + PAGE, 5)
    + guest.load(AT + PAGE)
    + guest.keep(2)
)
CALLS = guest.store(AT, RETURN, 1) + guest.rax(AT) + b"\xff\xd0" + guest.load(AT, 1) + guest.keep(0)
THREE = guest.store(OTHER, 1) + guest.store(OTHER + PAGE, 2) + guest.store(OTHER + 2 * PAGE, 3)
READS = guest.load(AT, 1) + guest.keep(0) + guest.inp(PORT) + guest.load(AT, 1) + guest.keep(1) + guest.inp(PORT)
READS += guest.load(AT, 1) + guest.keep(2) + guest.load(OTHER + PAGE + 8, 1) + guest.keep(3)


def with_memory(kind: type[Silent], *regions: Region) -> Level:
    return replace(own(kind), memory=regions)


def withdrawn(names: Sequence[Level], level: int) -> dict[str, Any]:
    """The control block of the image at `level` is taken away, then the guest asks that image."""
    code = guest.inp(PORT) + guest.keep(0) + hypercall(HYPERCALL, level, 7) + guest.keep(1)
    return run(names, code + guest.inp(OWN_PORT + level) + guest.keep(2), 3)


BLOCKS: dict[str, Case] = {
    "block lent below": lambda: withdrawn([Lending, "image"], 2),
    "block taken below": lambda: withdrawn([Taking, "image"], 2),
    "block lent above an image": lambda: withdrawn(["image", Lending, "image"], 3),
    "block taken above an image": lambda: withdrawn(["image", Taking, "image"], 3),
}

CASES: dict[str, Case] = {
    "pages": lambda: run(["image", Paging], TOUCHES, 3),
    "pages between": lambda: run(["image", PagingBetween, "image"], TOUCHES, 3),
    "pages below another level": lambda: run(
        ["image", PagingOther, Shifting], guest.store(AT, 7) + guest.load(AT) + guest.keep(0), 1
    ),
    "logged": lambda: run(["image", Logging], CALLS, 1),
    "moved": lambda: run(["image", Shifting], THREE + READS, 4),
    "moved below an image": lambda: run(["image", Shifting, "image"], guest.inp(PORT) + asks(3), 3),
    "declined fault": lambda: run(["image", Refusing], guest.load(AT) + guest.keep(0) + guest.store(AT, 1), 1),
    "unmapped": lambda: run(
        ["image", with_memory(Silent, Region(0, AT, 0))],
        guest.load(AT) + guest.keep(0) + guest.store(AT, 1) + guest.load(AT) + guest.keep(1),
        2,
    ),
    "read-only": lambda: run(
        ["image", with_memory(Silent, Region(0, AT, 0), Region(AT, PAGE, AT, Rights.READ | Rights.EXECUTE))],
        guest.load(AT) + guest.keep(0) + guest.store(AT, 1),
        1,
    ),
    "device": lambda: run(
        ["image", Device],
        guest.load(AT, 4) + guest.keep(0) + guest.store(AT + 4, 0x55, 1) + guest.load(AT, 2) + guest.keep(1),
        2,
    ),
    **BLOCKS,
}

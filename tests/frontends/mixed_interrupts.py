"""Cases of mixed_cases.py: what Python levels above an image inject, and what they make of CPUID."""

from __future__ import annotations

import threading
from typing import Any

import guest_code as guest
from mixed_run import MARK, PORT, Case, Counting, Silent, run

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result
from nestvmm.kvm import CpuidEntry

VECTOR, NMI = 0x40, 2
ADDED, BRAND = MARK + 0x77, 0x80000002
INTERRUPT, NMI_NOW, INTERRUPT_WINDOW, NMI_WINDOW, LATER, TWO, NMI_AFTER = range(1, 8)


class Injecting(Counting):
    """Writes to its port say what it is to inject, or to wait for."""

    def claims(self) -> Any:
        yield from super().claims()
        for reason in ExitReason.INTERRUPT_WINDOW, ExitReason.NMI_WINDOW:
            yield reason, 0, (1 << 64) - 1, None, self.window

    def access(self, event: Event) -> Result:
        self.seen.append([event.reason.value, event.level, event.value])
        acts = {
            INTERRUPT: lambda: self.guest.interrupt(VECTOR),
            NMI_NOW: lambda: self.guest.nmi() if len(self.seen) < 3 else None,
            INTERRUPT_WINDOW: self.guest.request_interrupt_window,
            NMI_WINDOW: self.guest.request_nmi_window,
            LATER: lambda: threading.Timer(0.3, self.guest.interrupt, (VECTOR,)).start(),
            NMI_AFTER: lambda: self.guest.request_nmi_window() if len(self.seen) < 3 else None,
            TWO: lambda: [self.guest.interrupt(VECTOR + 1), self.guest.interrupt(VECTOR)],
        }
        acts.get(event.value, lambda: None)()
        return HANDLED

    def window(self, event: Event) -> Result:
        self.seen.append([event.reason.value, event.level, 0])
        if event.reason is ExitReason.INTERRUPT_WINDOW:
            self.guest.interrupt(VECTOR)
        else:
            self.guest.nmi()
        return HANDLED


class Waiting(Injecting):
    """Waits for a window at a CPUID by an image, whose exit is the last one when its guest opens it."""

    def claims(self) -> Any:
        yield from super().claims()
        yield ExitReason.CPUID, ADDED, ADDED, None, self.leaf

    def leaf(self, event: Event) -> Result:
        self.guest.request_interrupt_window()
        return HANDLED


class Amending(Silent):
    """Changes a minivisor's mark, adds a leaf, and takes one away."""

    def cpuid(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        self.seen.append([entry.function for entry in entries])  # type: ignore[arg-type]
        for entry in entries:
            if entry.function in (MARK + 1, MARK + 2):
                entry.eax = entry.eax * 16 + self.guest.level
        kept = [entry for entry in entries if entry.function != BRAND]
        return [*kept, CpuidEntry(ADDED, eax=self.guest.level, ebx=2, ecx=3, edx=4)]


class Answering(Amending):
    """Answers a leaf itself, before anybody changes an answer."""

    def claims(self) -> Any:
        yield ExitReason.CPUID, ADDED, ADDED, None, self.answer

    def answer(self, event: Event) -> Result:
        regs = self.guest.regs
        regs.rax = 0x1234
        self.guest.set_regs(regs)
        return HANDLED


COUNT = guest.handler(guest.add(0))
BOTH = {VECTOR: COUNT, VECTOR + 1: guest.handler(guest.load(guest.RESULTS) + guest.keep(5) + guest.add(0))}
# A second one, asked for in the handler, comes behind it: result 1 is counted at the end, and kept at the start.
AGAIN = guest.out(PORT, NMI_NOW) + guest.NOP * 4
TWICE = guest.handler(guest.load(guest.RESULTS + 8) + guest.keep(2) + guest.add(0) + AGAIN + guest.add(1))


def count(number: int) -> bytes:
    """Result 0 as it is now goes to another result."""
    return guest.load(guest.RESULTS) + guest.keep(number)


MASKED = guest.out(PORT, INTERRUPT) + guest.NOP + count(1) + guest.STI + guest.NOP * 2 + count(2)
OPENED = guest.STI + guest.NOP * 2 + guest.CLI
WINDOW = guest.out(PORT, INTERRUPT_WINDOW) + guest.out(PORT, 0x20) + OPENED + guest.out(PORT, 0x21)
ONCE = guest.handler(guest.add(0) + guest.out(PORT, 0x22))
NMIS = guest.out(PORT, NMI_WINDOW) + guest.NOP + count(1)
LEAVES = b"".join(guest.cpuid(leaf) + guest.keep_all(4 * at) for at, leaf in enumerate((MARK + 1, ADDED, BRAND)))

CASES: dict[str, Case] = {
    "interrupt": lambda: run(["image", Injecting], MASKED, 3, handlers={VECTOR: COUNT}),
    "interrupt above two images": lambda: run(["image", "image", Injecting], MASKED, 3, handlers={VECTOR: COUNT}),
    "interrupt through an image": lambda: run(["image", Injecting, "image"], MASKED, 3, handlers={VECTOR: COUNT}),
    "two interrupts": lambda: run(
        ["image", Injecting], guest.out(PORT, TWO) + guest.STI + guest.NOP * 4, 6, handlers=BOTH
    ),
    "interrupt window": lambda: run(["image", Injecting], WINDOW, 1, handlers={VECTOR: COUNT}),
    "open interrupt window": lambda: run(
        ["image", Injecting], guest.STI + guest.out(PORT, INTERRUPT_WINDOW) + guest.NOP * 2, 1, handlers={VECTOR: COUNT}
    ),
    "window of the upper level": lambda: run(
        ["image", Injecting, "image", Injecting], WINDOW, 1, handlers={VECTOR: COUNT}
    ),
    "NMI": lambda: run(
        ["image", Injecting],
        guest.out(PORT, NMI_NOW) + guest.NOP * 4,
        3,
        handlers={NMI: TWICE},
    ),
    "NMI window": lambda: run(["image", Injecting], NMIS, 2, handlers={NMI: ONCE}),
    "interrupt window behind an image's exit": lambda: run(
        ["image", Waiting, "image"], guest.STI + guest.cpuid(ADDED) + guest.NOP, 1, handlers={VECTOR: COUNT}
    ),
    "NMI window in a handler": lambda: run(
        ["image", Injecting],
        guest.out(PORT, NMI_NOW) + guest.NOP * 4,
        1,
        handlers={NMI: guest.handler(guest.out(PORT, NMI_AFTER) + guest.add(0) + guest.out(PORT, 0x31))},
    ),
    "halted": lambda: run(
        ["image", Injecting], guest.STI + guest.out(PORT, LATER) + guest.HLT + count(1), 2, handlers={VECTOR: COUNT}
    ),
    "from a thread": lambda: run(
        ["image", Injecting], guest.STI + guest.out(PORT, LATER) + guest.until(0), 1, handlers={VECTOR: COUNT}
    ),
    "answers": lambda: run(["image", Amending], LEAVES, 12),
    "answers to two levels": lambda: run(["image", Amending, Amending], LEAVES, 12),
    "answers below an image": lambda: run(["image", Amending, "image"], LEAVES, 12),
    "answers of its own": lambda: run(["image", Answering, Amending], LEAVES, 12),
}

"""Guests that take traps, interrupts and NMIs, and single-step themselves: for every engine with a switcher."""

from __future__ import annotations

import struct

from exception_cases import NEXT, TABLES, user
from guest_code import (
    CLI,
    CODE,
    END_OF_INTERRUPT,
    HLT,
    IRETQ,
    NOP,
    RESULTS,
    STI,
    add,
    cpuid,
    done,
    handler,
    inp,
    keep,
    load,
    out,
    outs,
    ins,
    pic,
    rax,
    rbx,
    rcx,
    rdi,
    rdx,
    store,
    until,
    with_handlers,
)
from reason_cases import ANSWER, HERE as WATCHERS
from reason_cases import keep_both, run, watch

from nestvmm.hypervisors import HANDLED, Event, ExitReason, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec
from pathlib import Path

HERE = f"{Path(__file__)}:"
ALL = (1 << 64) - 1
ICR, ICR_HIGH, SPURIOUS = 0xFEE00300, 0xFEE00310, 0xFEE000F0
NMI_TO_SELF, SMI_TO_SELF, INIT_TO_SELF = 0x400, 0x200, 0x500


def apic(address: int, value: int) -> bytes:
    """Writes a register of the local APIC; changes RAX and RDI."""
    return rax(value) + rdi(address) + b"\x89\x07"


def to_self(mode: int) -> bytes:
    """Sends the guest's only processor, APIC id 0, an interrupt of this delivery mode."""
    return apic(SPURIOUS, 0x1FF) + apic(ICR_HIGH, 0) + apic(ICR, 0x4000 | mode)


class Injector(Hypervisor):
    """Does something to its guest on an OUT to port 0x5000 + n; keeps the windows that it sees."""

    def start(self, guest: object) -> None:
        super().start(guest)  # type: ignore[arg-type]
        self.seen: list[list[int]] = []

    def claims(self) -> list[HandlerClaim]:
        windows = (ExitReason.INTERRUPT_WINDOW, ExitReason.NMI_WINDOW)
        ports = [(ExitReason.IO, 0x5000, 0x500F, None, self.act)]
        return [*ports, *((reason, 0, ALL, None, self.window) for reason in windows)]

    def act(self, event: Event) -> Result:
        actions = (
            lambda: self.guest.inject(13, 0x5A8),
            lambda: self.guest.interrupt(0x41),
            self.guest.nmi,
            self.guest.request_interrupt_window,
            self.guest.request_nmi_window,
            lambda: (self.guest.interrupt(0x51), self.guest.interrupt(0x52)),
        )
        actions[event.qualifier - 0x5000]()
        return HANDLED

    def window(self, event: Event) -> Result:
        self.seen.append([int(event.reason), event.raw, self.guest.regs.rip - CODE, self.guest.regs.rflags & 0x200])
        return HANDLED


INJECTOR = LevelSpec(HERE + "Injector")

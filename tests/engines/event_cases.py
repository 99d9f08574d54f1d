"""Guests that take traps, interrupts and NMIs, and single-step themselves: for every engine with a switcher."""

from __future__ import annotations

import struct
from pathlib import Path

from exception_cases import DATA_ABSENT, LGDT, TABLES, user
from guest_code import (
    CLI,
    CODE,
    END_OF_INTERRUPT,
    HLT,
    IRETQ,
    NOP,
    RESULTS,
    STI,
    UD2,
    add,
    done,
    handler,
    inp,
    ins,
    keep,
    load,
    out,
    outs,
    pic,
    rax,
    rbx,
    rdi,
    wakes,
    with_handlers,
)
from reason_cases import keep_both, run, watch

from nestvmm.hypervisors import HANDLED, Event, ExitReason, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec

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

SET_TF = b"\x9c\x81\x0c\x24\0\x01\0\0\x9d"  # pushf; orl $0x100, (%rsp); popf
CLEAR_TF = b"\x9c\x81\x24\x24\xff\xfe\xff\xff\x9d"
RDTSC = b"\x0f\x31"
COUNT = add(0) + IRETQ
STEPS = {1: COUNT}
PUSHED_RIP = b"\x48\x8b\x04\x24"  # mov (%rsp), %rax
DR6 = b"\x0f\x21\xf0"  # mov %dr6, %rax

# A one-shot tick of the PIT, as vector 0x20; waits until the PIC asks for it.
WAIT = b"\xb0\x0a\xe6\x20" + b"\xe4\x20\xa8\x01\x74\xfa"  # its request register; in, test, je
TIMER = pic(0xFE) + out(0x43, 0x30) + out(0x40, 0x40) + out(0x40, 0x10) + WAIT
TICK = {0x20: handler(add(0) + END_OF_INTERRUPT)}

NMI_TWICE = b"\x50\x52\x57" + load(RESULTS) + b"\x48\x85\xc0\x75\x05" + b"\x66\xba\x02\x50\xee"


def stepped(engine: str, levels: list[LevelSpec]) -> dict[str, object]:
    """The guest steps itself over NOP, RDTSC, NOP, and three more until it stops; counts the traps."""
    code = SET_TF + NOP + RDTSC + NOP + CLEAR_TF + done()
    return run(engine, with_handlers(code, STEPS), levels)


def traps(engine: str, does: str) -> dict[str, object]:
    """The same without RDTSC; level 1 sees the traps, and the guest keeps what DR6 says."""
    return run(
        engine,
        with_handlers(
            SET_TF + NOP + CLEAR_TF + done(), {1: add(0) + b"\x50\x57" + DR6 + keep(1) + b"\x5f\x58" + IRETQ}
        ),
        [watch("exception", does, first=1, last=1)],
    )


def popf_sets_tf(engine: str, levels: list[LevelSpec]) -> dict[str, object]:
    """POPF sets the trap flag: the trap comes behind the instruction after it."""
    trap = add(0) + PUSHED_RIP + keep(1) + b"\x81\x64\x24\x10\xff\xfe\xff\xff" + IRETQ
    return run(engine, with_handlers(b"\x68\x02\x01\0\0\x9d" + NOP + NOP + done(), {1: trap}), levels)


def software(engine: str, code: bytes, vector: int, levels: list[LevelSpec]) -> dict[str, object]:
    """INTn; keeps where it returns to."""
    return run(engine, with_handlers(code + done(), {vector: add(0) + PUSHED_RIP + keep(1) + IRETQ}), levels)


def software_user(engine: str) -> dict[str, object]:
    """INTn at CPL 3 by a gate for CPL 0, passed on: #GP with the gate's number."""
    fault = b"\x58" + keep(0) + PUSHED_RIP + keep(1) + done(13)
    code = with_handlers(user(b"\xcd\x55") + done(1), {13: fault, 0x55: done(0x55)})
    return run(engine, code, [watch("software-interrupt", "decline")], 2, TABLES)


def step_faults(engine: str) -> dict[str, object]:
    """LGDT of a non-canonical address, passed on, faults: without a trap flag in its frame; the next one is seen."""
    bad = b"\x48\xb8" + bytes(7) + b"\x80" + b"\x0f\x01\x10"
    flags = b"\x58\x48\x8b\x44\x24\x10" + keep(0) + b"\x0f\x01\x14\x25" + struct.pack("<I", RESULTS) + done(13)
    return run(
        engine, with_handlers(bad + done(), {13: flags}), [watch("descriptor-table", "decline", first=0, last=0)]
    )


def pushed(engine: str) -> dict[str, object]:
    """PUSHF, passed on: no trap flag of L0's on the stack."""
    return run(engine, b"\x31\xc0\x9c\x58" + keep(0) + done(), [watch("pushf", "decline")], 1)


def on_top(engine: str, code: bytes, handlers: dict[int, bytes]) -> dict[str, object]:
    """An exception whose gate is not there; level 1 sees the #GP that comes of it, and passes it on."""
    return run(
        engine, with_handlers(code + done(1), handlers), [watch("exception", "decline", first=13, last=13)], 1, TABLES
    )


NOT_PRESENT = LGDT + rax(DATA_ABSENT) + b"\x8e\xd8"
KEEP_ERROR = b"\x58" + keep(0)


def ports(engine: str, code: bytes, does: str, **more: object) -> dict[str, object]:
    """Ports 0x5000 to 0x5003 by the I/O bitmap."""
    levels = [watch("io", does, first=0x5000, last=0x5003)]
    return run(engine, code + keep_both() + done(), levels, io_intercepts=True, **more)  # type: ignore[arg-type]


def acts(engine: str, code: bytes, handlers: dict[int, bytes], *levels: LevelSpec, count: int = 2) -> dict[str, object]:
    """OUT to a port of Injector's."""
    return run(engine, with_handlers(code + done(), handlers), [INJECTOR, *levels], count)


def injected_wakes(engine: str, *levels: LevelSpec) -> dict[str, object]:
    """HLT, ended by an interrupt that Injector has pending."""
    return acts(engine, CLI + out(0x5001, 0) + STI + HLT, {0x41: wakes(COUNT, 2)}, *levels, count=3)


def timed(engine: str, *levels: LevelSpec) -> dict[str, object]:
    """An interrupt of the in-kernel PIT."""
    return run(engine, with_handlers(CLI + TIMER + STI + NOP + NOP + done(), TICK), levels, machine="pc")


def tick_wakes(engine: str, *levels: LevelSpec) -> dict[str, object]:
    """HLT, ended by such an interrupt."""
    tick = {0x20: wakes(TICK[0x20], 2, END_OF_INTERRUPT)}
    return run(engine, with_handlers(CLI + TIMER + STI + HLT + add(1) + done(), tick), levels, 3, machine="pc")


def signal(engine: str, mode: int, *levels: LevelSpec) -> dict[str, object]:
    """What the local APIC delivers to its own processor."""
    code = with_handlers(to_self(mode) + NOP + add(1) + done(), {2: COUNT})
    return run(engine, code, levels, machine="pc")


CASES = {
    "stepped": lambda engine: stepped(engine, []),
    "stepped, declined": lambda engine: stepped(engine, [watch("rdtsc", "decline")]),
    "stepped, answered": lambda engine: stepped(engine, [watch("rdtsc")]),
    "traps handled": lambda engine: traps(engine, "handled"),
    "traps declined": lambda engine: traps(engine, "decline"),
    "popf": lambda engine: popf_sets_tf(engine, []),
    "popf declined": lambda engine: popf_sets_tf(engine, [watch("popf", "decline")]),
    "int3 declined": lambda engine: software(engine, b"\xcc", 3, [watch("software-interrupt", "decline")]),
    "int declined": lambda engine: software(engine, b"\xcd\x55", 0x55, [watch("software-interrupt", "decline")]),
    "int user": software_user,
    "iret declined": lambda engine: software(engine, b"\xcd\x55", 0x55, [watch("iret", "decline")]),
    "step faults": step_faults,
    "pushed": pushed,
    "benign first": lambda engine: on_top(engine, UD2, {13: KEEP_ERROR + done(13)}),
    "double fault": lambda engine: on_top(engine, NOT_PRESENT, {8: KEEP_ERROR + done(8)}),
    "triple fault": lambda engine: on_top(engine, NOT_PRESENT, {}),
    "inject": lambda engine: acts(
        engine, out(0x5000, 0) + NOP, {13: b"\x58" + keep(0) + PUSHED_RIP + keep(1) + done()}
    ),
    "interrupt": lambda engine: acts(engine, STI + out(0x5001, 0) + NOP, {0x41: COUNT}),
    "interrupt waits": lambda engine: acts(
        engine,
        CLI + out(0x5001, 0) + add(0) + STI + NOP + NOP,
        {0x41: handler(load(RESULTS) + keep(1))},
    ),
    "two interrupts": lambda engine: acts(
        engine, CLI + out(0x5005, 0) + STI + NOP + NOP, {0x51: handler(load(RESULTS) + keep(1)), 0x52: COUNT}
    ),
    "interrupt wakes": injected_wakes,
    "interrupt wakes, hlt declined": lambda engine: injected_wakes(engine, watch("hlt", "decline")),
    "nmi": lambda engine: acts(engine, out(0x5002, 0) + NOP + add(1), {2: COUNT}),
    "nmi in nmi": lambda engine: acts(
        engine, out(0x5002, 0) + NOP + add(1), {2: NMI_TWICE + NOP * 15 + add(0) + b"\x5f\x5a\x58" + IRETQ}
    ),
    "interrupt window": lambda engine: acts(engine, CLI + out(0x5003, 0) + NOP + NOP + STI + NOP + NOP, {}),
    "nmi window": lambda engine: acts(engine, out(0x5004, 0) + NOP + NOP, {}),
    "tick": timed,
    "tick declined": lambda engine: timed(engine, watch("interrupt", "decline")),
    "tick handled": lambda engine: timed(engine, watch("interrupt", "handled")),
    "tick wakes": lambda engine: tick_wakes(engine, watch("hlt", "decline")),
    "tick wakes, declined": lambda engine: tick_wakes(engine, watch("hlt", "decline"), watch("interrupt", "decline")),
    **{
        f"{name} {does}": (
            lambda engine, name=name, mode=mode, does=does: signal(
                engine, mode, *([] if does == "unclaimed" else [watch(name, does)])
            )
        )
        for name, mode in (("nmi", NMI_TO_SELF), ("smi", SMI_TO_SELF), ("init", INIT_TO_SELF))
        for does in ("unclaimed", "handled", "decline")
    },
    "shutdown": lambda engine: run(engine, b"\x0f\x0b" + add(0) + done(), [watch("shutdown", "skip")]),
    "port out": lambda engine: ports(engine, out(0x5000, 0x1234, 2), "handled"),
    "port in": lambda engine: ports(engine, rbx(0) + inp(0x5001, 4), "regs"),
    "port outs": lambda engine: ports(engine, outs(0x5000, RESULTS, 3, 2) + rax(0), "handled"),
    "port ins": lambda engine: ports(engine, ins(0x5000, RESULTS + 0x40, 3, 2) + load(RESULTS + 0x40), "answer"),
    "port fault": lambda engine: run(
        engine,
        with_handlers(inp(0x5000) + done(1), {13: b"\x58" + keep(0) + PUSHED_RIP + keep(1) + done()}),
        [watch("io", "fault", first=0x5000, last=0x5003)],
        io_intercepts=True,
    ),
    "port declined": lambda engine: ports(engine, inp(0x5000) + b"\x9c\x5b", "decline"),
    "port user": lambda engine: ports(engine, user(rbx(0) + inp(0x5000, 2)), "answer", memory=TABLES),
    "port unclaimed": lambda engine: ports(engine, rbx(0) + inp(0x5004), "answer"),
    "port stepped": lambda engine: run(
        engine,
        with_handlers(SET_TF + b"\xe4\x70" + NOP + CLEAR_TF + done(), STEPS),
        [watch("io", "answer", first=0x70, last=0x70)],
        io_intercepts=True,
    ),
}

"""Runs in the VMX lab: towers under the vmx engine; prints what their levels saw and their guests kept, as JSON.

Its argument names the group of cases to run.
"""

from __future__ import annotations

import struct
import sys
from functools import partial
from pathlib import Path

import debug_cases
import event_cases
import exception_cases
import mode_cases
import reason_cases
import state_cases
import switcher_cases
from guest_code import RESULTS, STI, done, keep, out, rdmsr, store, until, with_handlers
from print_cases import print_cases
from reason_cases import run, watch

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Hypervisor, Result
from nestvmm.hypervisors.base import HandlerClaim
from nestvmm.nesting import LevelSpec

HERE = f"{Path(__file__)}:"
ALL = (1 << 64) - 1
NE, VMXE = 1 << 5, 1 << 13
READ_CR0, WRITE_CR0, READ_CR4, WRITE_CR4 = b"\x0f\x20\xc0", b"\x0f\x22\xc0", b"\x0f\x20\xe0", b"\x0f\x22\xe0"
# Cases of the shared groups that are SVM's alone, or need what the lab's processor lacks.
OTHERS = (
    "hypercall",
    "stgi",
    "vmrun",
    "invlpga",
    "rdseed",
    "encls",
    "pushed",
    "int declined",
    "int3 declined",
    "int user",
)
OTHERS += ("popf declined", "iret declined", "smi handled", "smi decline", "vm_cr read", "hsave read", "hsave write")


class Timer(Hypervisor):
    """Asks for an event after some cycles on an access to port 0x5000, and keeps when it came."""

    def __init__(self, cycles: int) -> None:
        self._cycles = cycles
        self.seen: list[list[int]] = []

    def claims(self) -> list[HandlerClaim]:
        return [
            (ExitReason.IO, 0x5000, 0x5000, None, self.ask),
            (ExitReason.PREEMPTION_TIMER, 0, ALL, None, self.expired),
        ]

    def ask(self, event: Event) -> Result:
        self.guest.request_timer(self._cycles)
        return HANDLED

    def expired(self, event: Event) -> Result:
        self.seen.append([event.raw, event.qualifier, event.length])
        self.guest.write(RESULTS, b"\1")
        return HANDLED


def timer(engine: str, cycles: int) -> dict[str, object]:
    """The guest waits until level 1 ends it.

    With interrupts on: nothing from outside stops Bochs in a guest of KVM that it entered with them off, until that
    guest itself sets or clears RFLAGS.IF; a loop around CLI does not hang.
    """
    code = STI + out(0x5000, 0) + until(0) + done()
    return run(engine, code, [LevelSpec(HERE + "Timer", {"cycles": cycles})], 1)


def fixed_bits(engine: str) -> dict[str, object]:
    """The guest clears and sets CR0.NE, which VMX keeps set; and sets CR4.VMXE, which it does not have."""
    ne = READ_CR0 + b"\x48\x83\xe0\xdf" + WRITE_CR0 + READ_CR0 + keep(0)
    ne += b"\x48\x83\xc8\x20" + WRITE_CR0 + READ_CR0 + keep(1)
    vmxe = READ_CR4 + b"\x48\x0d" + struct.pack("<I", VMXE) + WRITE_CR4
    handler = b"\x58" + keep(2) + READ_CR4 + keep(3) + done()
    return run(engine, with_handlers(ne + vmxe + done(1), {13: handler}), [], 4)


def unprotected(engine: str) -> dict[str, object]:
    """The same in the guest's CR0 when level 1 sees all its writes and declines them."""
    code = READ_CR0 + b"\x48\x83\xe0\xdf" + WRITE_CR0 + READ_CR0 + keep(0)
    code += READ_CR0 + b"\x48\x83\xc8\x28" + WRITE_CR0 + READ_CR0 + keep(1) + b"\x0f\x06" + READ_CR0 + keep(2)
    return run(engine, code + done(), [watch("cr-write", "decline", first=0, last=0)], 3)


CASES = {
    **switcher_cases.CASES,
    "timer": lambda engine: timer(engine, 1 << 16),
    "fixed bits": fixed_bits,
    "cr0 writes": unprotected,
    "vmx msr": lambda engine: run(
        engine, with_handlers(rdmsr(0x480) + done(1), {13: b"\x58" + store(RESULTS, 13) + done()}), [], 1
    ),
    **{
        name: (lambda engine, name=name: refused(engine, name.replace(" ", "-")))
        for name in ("monitor trap", "rdseed", "encls")
    },
}


def refused(engine: str, reason: str) -> dict[str, object]:
    """What the lab's KVM does not offer is refused by name."""
    try:
        return run(engine, done(), [watch(reason)])
    except Exception as error:  # noqa: BLE001 what it is, is the case's result
        return {"error": f"{type(error).__name__}: {error}"}


def _for_vmx(cases: dict[str, object]) -> dict[str, object]:
    return {name: case for name, case in cases.items() if name.split(" ", 1)[-1] not in OTHERS and name not in OTHERS}


GROUPS = {
    "instructions": {**_for_vmx(reason_cases.possible("vmx")), **_for_vmx(state_cases.CASES), **CASES},
    "events": {**exception_cases.CASES, **_for_vmx(event_cases.CASES), **debug_cases.CASES},
    "modes": mode_cases.possible("vmx"),
}

if __name__ == "__main__":
    print_cases({name: partial(case, "vmx") for name, case in GROUPS[sys.argv[1]].items()})

"""Runs in the SVM lab: towers under the svm engine; prints what their levels saw and their guests kept, as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from guest_code import (
    CODE,
    DROP_ERROR_CODE,
    HLT,
    IRETQ,
    cpuid,
    done,
    keep,
    keep_all,
    load,
    rax,
    rcx,
    rdx,
    run_in,
    spec_of,
    store,
    with_handlers,
)
from guest_code import results as kept

from nestvmm._native import lib
from nestvmm.hypervisors import HANDLED, Event, ExitReason, Guest, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec, Tower

HERE = f"{Path(__file__)}:"
ANSWER = 0x7777

# The instruction of each reason, with what it needs in registers before it.
INSTRUCTIONS = {
    "cpuid": cpuid(0x40000123),
    "rdtsc": b"\x0f\x31",
    "rdtscp": b"\x0f\x01\xf9",
    "rdpmc": rcx(3) + b"\x0f\x33",
    "hlt": HLT,
    "pause": b"\xf3\x90",
    "invd": b"\x0f\x08",
    "wbinvd": b"\x0f\x09",
    "monitor": rax(CODE) + rcx(0) + rdx(0) + b"\x0f\x01\xc8",
    "mwait": rcx(0) + b"\x0f\x01\xc9",
    "xsetbv": b"\x0f\x20\xe0\x0d\x00\x00\x04\x00\x0f\x22\xe0" + rax(1) + rcx(0) + rdx(0) + b"\x0f\x01\xd1",
    "hypercall": rax(0x55) + b"\x0f\x01\xd9",
    "svm-instruction": b"\x0f\x01\xdc",  # STGI
}


class Witness(Hypervisor):
    """Keeps what it saw of one reason, and answers by RAX = ANSWER."""

    def __init__(self, reason: str) -> None:
        self._reason = ExitReason.from_label(reason)
        self.seen: list[dict[str, int]] = []

    def claims(self) -> list[HandlerClaim]:
        return [(self._reason, 0, (1 << 64) - 1, None, self.handle)]

    def handle(self, event: Event) -> Result:
        regs = self.guest.regs
        self.see(event, regs.rip)
        regs.rax = ANSWER
        self.guest.set_regs(regs)
        return HANDLED

    def see(self, event: Event, rip: int) -> None:
        self.seen.append({"raw": event.raw, "qualifier": event.qualifier, "level": event.level, "rip": rip - CODE})


class Declining(Witness):
    """Sees and declines."""

    def handle(self, event: Event) -> Result:
        self.see(event, self.guest.regs.rip)
        return Result.declined()


class Faulting(Hypervisor):
    """Answers CPUID by #GP with an error code."""

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.CPUID, 0, (1 << 64) - 1, None, lambda _: Result.faulted(13, 0x5A8))]


class Peeking(Hypervisor):
    """Reads its guest's system registers on CPUID, and changes CR3's unused bits."""

    def start(self, guest: Guest) -> None:
        super().start(guest)
        self.seen: list[dict[str, int]] = []

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.CPUID, 0, (1 << 64) - 1, None, self.handle)]

    def handle(self, event: Event) -> Result:
        sregs = self.guest.sregs
        self.seen.append({"cr0": sregs.cr0, "efer": sregs.efer, "cs": sregs.cs.selector, "long": sregs.cs.l})
        sregs.cr4 |= 1 << 7  # PGE
        self.guest.set_sregs(sregs)
        return HANDLED


class Recalling(Hypervisor):
    """Changes CR4 on an exit that KVM serves to userspace directly, then makes the next one fault."""

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.IO, 0x5000, 0x5000, None, self.change), (ExitReason.IO, 0x5001, 0x5001, None, self.fault)]

    def change(self, event: Event) -> Result:
        sregs = self.guest.sregs
        sregs.cr4 |= 1 << 7  # PGE
        self.guest.set_sregs(sregs)
        return Result.read(0x5A)

    def fault(self, event: Event) -> Result:
        return Result.faulted(13, 0x5A8)


def run(code: bytes, levels: list[LevelSpec], count: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder, Tower(spec_of(Path(folder), code, levels, engine="svm")) as tower:
        result = run_in(tower)
        return {
            "status": result.status,
            "message": result.message,
            "exits": int(tower.engine.vcpu.exits),
            "kept": kept(tower, count),
            "seen": [getattr(hypervisor, "seen", []) for hypervisor in tower.hypervisors],
        }


def reason_case(reason: str) -> dict[str, object]:
    code = INSTRUCTIONS[reason] + keep(0) + done()
    levels = [LevelSpec(HERE + "Witness", {"reason": reason}), LevelSpec("logger"), LevelSpec("logger")]
    return run(code, levels, 1)


def declined_case(reason: str) -> dict[str, object]:
    levels = [LevelSpec(HERE + "Declining", {"reason": reason})]
    return run(INSTRUCTIONS[reason] + keep(0) + done(), levels, 1)


def undefined_case(reason: str) -> dict[str, object]:
    """Nobody claims it: #UD."""
    code = with_handlers(INSTRUCTIONS[reason] + done(1), {6: store(0x120000, 0x6) + done()})
    return run(code, [], 1)


def cpuid_native() -> dict[str, object]:
    return run(cpuid(0) + keep_all(0) + done(), [LevelSpec(HERE + "Declining", {"reason": "cpuid"})], 4)


def cpuid_untrapped() -> dict[str, object]:
    return run(cpuid(0) + keep_all(0) + done(), [], 4)


def fault() -> dict[str, object]:
    handler = b"\x48\x8b\x04\x24" + keep(0) + DROP_ERROR_CODE + b"\x48\x83\x04\x24\x02" + IRETQ  # skips CPUID
    code = with_handlers(cpuid(0) + rax(9) + keep(1) + done(), {13: handler})
    return run(code, [LevelSpec(HERE + "Faulting")], 2)


def peek() -> dict[str, object]:
    return run(cpuid(0) + b"\x0f\x20\xe0" + keep(0) + done(), [LevelSpec(HERE + "Peeking")], 1)


def recall() -> dict[str, object]:
    """The answer to IN and the new CR4 both arrive; then IN faults."""
    handler = b"\x48\x8b\x04\x24" + keep(2) + done()
    code = rdx(0x5000) + rax(0) + b"\xec" + keep(0) + b"\x0f\x20\xe0" + keep(1) + rdx(0x5001) + b"\xec" + done(1)
    return run(with_handlers(code, {13: handler}), [LevelSpec(HERE + "Recalling"), LevelSpec("logger")], 3)


def switcher_memory() -> dict[str, object]:
    """Maps the switcher's pages at 1 GiB of its own addresses, then reads and writes them."""
    entry = lib.NV_SWITCHER_BASE | 0x87
    find = b"\x0f\x20\xd8\x48\x8b\x00\x48\x25\x00\xf0\xff\xff"  # rax = cr3; rax = its first PDPT
    find += b"\x48\x8b\x40\x08\x48\x25\x00\xf0\xff\xff" + b"\x48\x89\xc7"  # rdi = the PD of the second GiB
    patch = rax(entry) + b"\x48\x89\x07" + b"\x0f\x20\xd8\x0f\x22\xd8"  # its first entry; reload cr3
    code = find + patch + load(0x40000000) + keep(0) + store(0x40002088, 0) + load(0x40002088) + keep(1) + done()
    return run(code, [], 2)


CASES = {
    **{f"reason {reason}": (lambda reason=reason: reason_case(reason)) for reason in INSTRUCTIONS},
    **{f"declined {reason}": (lambda reason=reason: declined_case(reason)) for reason in ("rdtsc", "pause", "wbinvd")},
    **{
        f"undefined {reason}": (lambda reason=reason: undefined_case(reason))
        for reason in ("hypercall", "svm-instruction")
    },
    "cpuid native": cpuid_native,
    "cpuid untrapped": cpuid_untrapped,
    "fault": fault,
    "peek": peek,
    "recall": recall,
    "switcher memory": switcher_memory,
}

if __name__ == "__main__":
    found = {}
    for name, case in CASES.items():
        print(name, file=sys.stderr, flush=True)
        found[name] = case()
    print(json.dumps(found))

"""Towers whose levels change state, claims and MSRs while the guest runs: for every engine with a switcher."""

from __future__ import annotations

from pathlib import Path

from guest_code import (
    RESULTS,
    cpuid,
    done,
    keep,
    keep_all,
    out,
    rax,
    rdmsr,
    rdx,
    store,
    with_handlers,
    wrmsr,
)
from reason_cases import ANSWER, run, watch

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Guest, HandlerClaim, Hypervisor, Result, on_io
from nestvmm.nesting import LevelSpec

HERE = f"{Path(__file__)}:"
ALL = (1 << 64) - 1
EFER, VM_CR, HSAVE_PA = 0xC0000080, 0xC0010114, 0xC0010117
SYSENTER_ESP = 0x175
SVME = 1 << 12
VMMCALL = b"\x0f\x01\xd9"
RDTSC = b"\x0f\x31"
OSXSAVE = b"\x0f\x20\xe0\x0d\x00\x00\x04\x00\x0f\x22\xe0"  # sets CR4.OSXSAVE


class Peeking(Hypervisor):
    """Reads its guest's system registers on CPUID, and sets CR4.PGE."""

    def start(self, guest: Guest) -> None:
        super().start(guest)
        self.seen: list[dict[str, int]] = []

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.CPUID, 0, ALL, None, self.handle)]

    def handle(self, event: Event) -> Result:
        sregs = self.guest.sregs
        self.seen.append({"cr0": sregs.cr0, "efer": sregs.efer, "cs": sregs.cs.selector, "long": sregs.cs.l})
        sregs.cr4 |= 1 << 7
        self.guest.set_sregs(sregs)
        return HANDLED


class Recalling(Hypervisor):
    """Changes CR4 on an exit that KVM serves to userspace directly, then makes the next one fault."""

    @on_io(0x5000)
    def change(self, event: Event) -> Result:
        sregs = self.guest.sregs
        sregs.cr4 |= 1 << 7
        self.guest.set_sregs(sregs)
        return Result.read(0x5A)

    @on_io(0x5001)
    def fault(self, event: Event) -> Result:
        return Result.faulted(13, 0x5A8)


class Reclaiming(Hypervisor):
    """Claims RDTSC between two hypercalls; with `port`, the calls are accesses to a port, and an MSR is claimed."""

    def __init__(self, port: bool = False) -> None:
        self._port = port
        self._wants = False
        self.seen: list[str] = []

    def claims(self) -> list[HandlerClaim]:
        call = (ExitReason.IO, 0x5000, 0x5000) if self._port else (ExitReason.HYPERCALL, 0, ALL)
        wanted = (ExitReason.RDMSR, SYSENTER_ESP, SYSENTER_ESP) if self._port else (ExitReason.RDTSC, 0, ALL)
        return [(*call, None, self.call), *([(*wanted, None, self.answer)] if self._wants else [])]

    def call(self, event: Event) -> Result:
        self._wants = not self._wants
        self.guest.claims_changed()
        return HANDLED

    def answer(self, event: Event) -> Result:
        self.seen.append(event.reason.label)
        if event.size:
            return Result.read(ANSWER)
        regs = self.guest.regs
        regs.rax = ANSWER
        self.guest.set_regs(regs)
        return HANDLED


class Greedy(Hypervisor):
    """Claims device memory after the first access to a port, which is too late."""

    late = False

    def claims(self) -> list[HandlerClaim]:
        memory = (ExitReason.MMIO, 0xD0000000, 0xD0000FFF, None, self.act)
        return [(ExitReason.IO, 0x5000, 0x5000, None, self.act), *([memory] if self.late else [])]

    def act(self, event: Event) -> Result:
        self.late = True
        self.guest.claims_changed()
        return HANDLED


class MsrKeeper(Hypervisor):
    """Reads and writes MSRs of its guest on an access to port 0x5000."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    @on_io(0x5000)
    def act(self, event: Event) -> Result:
        guest = self.guest
        self.seen += [guest.read_msr(SYSENTER_ESP), guest.write_msr(SYSENTER_ESP, 0x4321)]
        self.seen += [guest.read_msr(0x12345678), guest.write_msr(0x12345678, 1)]
        efer = guest.read_msr(EFER)
        self.seen += [efer, guest.write_msr(EFER, (efer or 0) | 1)]
        return HANDLED


def peek(engine: str) -> dict[str, object]:
    return run(engine, cpuid(0) + b"\x0f\x20\xe0" + keep(0) + done(), [LevelSpec(HERE + "Peeking")])


def recall(engine: str) -> dict[str, object]:
    """The answer to IN and the new CR4 both arrive; then IN faults."""
    handler = b"\x48\x8b\x04\x24" + keep(2) + done()
    code = rdx(0x5000) + rax(0) + b"\xec" + keep(0) + b"\x0f\x20\xe0" + keep(1) + rdx(0x5001) + b"\xec" + done(1)
    return run(engine, with_handlers(code, {13: handler}), [LevelSpec(HERE + "Recalling"), "logger"], 3)


def reclaim(engine: str) -> dict[str, object]:
    """RDTSC is nobody's, then level 1's, then nobody's again."""
    code = RDTSC + keep(0) + VMMCALL + RDTSC + keep(1) + VMMCALL + RDTSC + keep(2) + done()
    return run(engine, code, ["logger", LevelSpec(HERE + "Reclaiming"), "logger"], 3)


def reclaim_msr(engine: str) -> dict[str, object]:
    """The same with an MSR, by exits that KVM serves to userspace directly."""
    call, read = out(0x5000, 0), rdmsr(SYSENTER_ESP)
    code = wrmsr(SYSENTER_ESP, 0x10) + read + keep(0) + call + read + keep(1) + call + read + keep(2) + done()
    return run(engine, code, [LevelSpec(HERE + "Reclaiming", {"port": True})], 3)


def reclaim_memory(engine: str) -> dict[str, object]:
    try:
        return run(engine, out(0x5000, 0) + done(), [LevelSpec(HERE + "Greedy")])
    except Exception as error:  # noqa: BLE001 what it is, is the case's result
        return {"error": f"{type(error).__name__}: {error}"}


def msrs(engine: str) -> dict[str, object]:
    code = wrmsr(SYSENTER_ESP, 0x1234) + out(0x5000, 0) + rdmsr(SYSENTER_ESP) + keep(0) + rdmsr(EFER) + keep(1) + done()
    return run(engine, code, [LevelSpec(HERE + "MsrKeeper")])


def efer(engine: str) -> dict[str, object]:
    """EFER as the guest sees it, after it set NXE; then SVME, which it does not have, is #GP."""
    refused = b"\x58" + store(RESULTS + 16, 13) + done()
    code = rdmsr(EFER) + keep(0) + wrmsr(EFER, 0xD00) + rdmsr(EFER) + keep(1) + wrmsr(EFER, 0xD00 | SVME) + done(1)
    return run(engine, with_handlers(code, {13: refused}), [], 3)


def refused(engine: str, code: bytes) -> dict[str, object]:
    """#GP, and the guest's own memory is as it was."""
    return run(engine, with_handlers(code + done(1), {13: b"\x58" + store(RESULTS, 13) + done()}), [], 1)


def leaf(engine: str, number: int, subleaf: int = 0, before: bytes = b"") -> dict[str, object]:
    return run(engine, before + cpuid(number, subleaf) + keep_all(0) + done(), [], 4)


CASES = {
    "peek": peek,
    "recall": recall,
    "reclaim": reclaim,
    "reclaim msr": reclaim_msr,
    "reclaim memory": reclaim_memory,
    "msrs": msrs,
    "efer": efer,
    "vm_cr read": lambda engine: refused(engine, rdmsr(VM_CR)),
    "hsave read": lambda engine: refused(engine, rdmsr(HSAVE_PA)),
    "hsave write": lambda engine: refused(engine, wrmsr(HSAVE_PA, 0x100000)),
    "efer reserved": lambda engine: refused(engine, wrmsr(EFER, 0x500 | 1 << 5)),
    "efer lme": lambda engine: refused(engine, wrmsr(EFER, 0)),
    "cpuid 0": lambda engine: leaf(engine, 0),
    "cpuid 0 declined": lambda engine: run(engine, cpuid(0) + keep_all(0) + done(), [watch("cpuid", "decline")], 4),
    "cpuid 1": lambda engine: leaf(engine, 1),
    "cpuid 1 osxsave": lambda engine: leaf(engine, 1, before=OSXSAVE),
    "cpuid extended 1": lambda engine: leaf(engine, 0x80000001),
    "cpuid svm": lambda engine: leaf(engine, 0x8000000A),
    "cpuid beyond": lambda engine: leaf(engine, 0x0FFFFFFF),
    "cpuid d": lambda engine: leaf(engine, 0xD, before=OSXSAVE),
    "cpuid d all": lambda engine: leaf(engine, 0xD, before=OSXSAVE + rax(7) + b"\x31\xc9\x31\xd2\x0f\x01\xd1"),
    "cpuid b": lambda engine: leaf(engine, 0xB, 7),
}

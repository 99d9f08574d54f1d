"""Guests that cause one exit reason each, and the hypervisors that watch: for every engine with a switcher.

Each guest is machine code for CODE; what it kept is in RESULTS. `run` gives what its levels saw.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from guest_code import (
    CODE,
    DROP_ERROR_CODE,
    HLT,
    IRETQ,
    RESULTS,
    cpuid,
    done,
    keep,
    rax,
    rbx,
    rcx,
    rdi,
    rdmsr,
    rdx,
    run_in,
    spec_of,
    store,
    with_handlers,
    wrmsr,
)
from guest_code import results as kept

from nestvmm.hypervisors import HANDLED, Event, ExitReason, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec, Tower
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import REASONS

HERE = f"{Path(__file__)}:"
ANSWER = 0x7777
ALL = (1 << 64) - 1
TABLE = 0x130000  # scratch memory of a guest
FIELDS = ("raw", "qualifier", "direction", "size", "value", "info", "length")


class Watcher(Hypervisor):
    """Keeps what it saw of one reason, at most `limit` times; `does` says how it answers.

    does:  answer (reads give ANSWER, what moves nothing sets RAX = ANSWER), decline, fault (#GP 0x5a8), retry, skip
    """

    def __init__(self, reason: str, first: int = 0, last: int = -1, does: str = "answer", way: str = "") -> None:
        self._reason = ExitReason.from_label(reason)
        self._range = (first, last & ALL)
        self._way = Direction[way.upper()] if way else None
        self._does = does
        self.seen: list[dict[str, int | str]] = []

    def claims(self) -> list[HandlerClaim]:
        return [(self._reason, *self._range, self._way, self.handle)]

    def handle(self, event: Event) -> Result:
        rip = self.guest.regs.rip - CODE
        fields = {name: int(getattr(event, name)) for name in FIELDS}
        self.seen.append({**fields, "rip": rip, "instruction": event.instruction.hex()})
        answer: Result = getattr(self, self._does)(event)
        return answer

    def answer(self, event: Event) -> Result:
        if event.size:
            return Result.read(ANSWER)
        regs = self.guest.regs
        regs.rax = ANSWER
        self.guest.set_regs(regs)
        return HANDLED

    def decline(self, event: Event) -> Result:
        return Result.declined()

    def fault(self, event: Event) -> Result:
        return Result.faulted(13, 0x5A8)

    def retry(self, event: Event) -> Result:
        """Once; then as answer."""
        return Result.retry() if len(self.seen) == 1 else self.answer(event)

    def skip(self, event: Event) -> Result:
        """Goes on two bytes further, which is behind every exception's instruction here; only once."""
        if len(self.seen) > 1:
            return Result.stopped(7, "again")
        self.guest.skip(2)
        return HANDLED

    def regs(self, event: Event) -> Result:
        """Reads give ANSWER, and RBX becomes that too."""
        regs = self.guest.regs
        regs.rbx = ANSWER
        self.guest.set_regs(regs)
        return Result.read(ANSWER)

    def handled(self, event: Event) -> Result:
        return HANDLED


def watch(reason: str, does: str = "answer", **options: int | str) -> LevelSpec:
    """A level with a Watcher."""
    return LevelSpec(HERE + "Watcher", {"reason": reason, "does": does, **options})


def run(
    engine: str,
    code: bytes,
    levels: Sequence[LevelSpec | str],
    count: int = 2,
    memory: Mapping[int, bytes] | None = None,
    machine: str = "auto",
    **more: object,
) -> dict[str, object]:
    """Runs a tower; what became of it, what the guest kept, and what its levels saw, from level 1 up."""
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), code, levels, engine=engine, machine=machine, **more)  # type: ignore[arg-type]
        # what the engine does with SVM hidden; tests/frontends has the rest
        with Tower(spec if engine == "direct" else replace(spec, expose=(f"L0:-{engine}",))) as tower:
            for address, content in (memory or {}).items():
                tower.memory[tower.height].write(address, content)
            result = run_in(tower)
            return {
                "status": result.status,
                "message": result.message.splitlines()[0] if result.message else "",
                "exits": int(tower.engine.vcpu.exits),
                "kept": kept(tower, count),
                "seen": [getattr(hypervisor, "seen", []) for hypervisor in tower.hypervisors],
            }


HYPERCALLS = {"svm": b"\x0f\x01\xd9", "vmx": b"\x0f\x01\xc1"}

# Reason, and what to do: instructions before, the one that exits. RAX and RBX are kept after it.
INSTRUCTIONS: dict[str, tuple[str, bytes, bytes]] = {
    "cpuid": ("cpuid", rax(0x40000123), b"\x0f\xa2"),
    "rdtsc": ("rdtsc", b"", b"\x0f\x31"),
    "rdtscp": ("rdtscp", b"", b"\x0f\x01\xf9"),
    "rdpmc": ("rdpmc", rcx(3), b"\x0f\x33"),
    "hlt": ("hlt", b"", HLT),
    "pause": ("pause", b"", b"\xf3\x90"),
    "invd": ("invd", b"", b"\x0f\x08"),
    "wbinvd": ("wbinvd", b"", b"\x0f\x09"),
    "monitor": ("monitor", rax(CODE) + rcx(0) + rdx(0), b"\x0f\x01\xc8"),
    "mwait": ("mwait", rax(0) + rcx(0), b"\x0f\x01\xc9"),
    "rdpru": ("rdpru", rcx(0), b"\x0f\x01\xfd"),
    "xsetbv": (
        "xsetbv",
        b"\x0f\x20\xe0\x0d\x00\x00\x04\x00\x0f\x22\xe0" + rax(1) + rcx(0) + rdx(0),
        b"\x0f\x01\xd1",
    ),
    "hypercall": ("hypercall", rax(0x55), HYPERCALLS["svm"]),
    "vmcall": ("hypercall", rax(0x55), HYPERCALLS["vmx"]),
    "invlpg": ("invlpg", rax(RESULTS), b"\x0f\x01\x38"),
    "invpcid": ("invpcid", rax(2) + rdi(RESULTS + 0x80), b"\x66\x0f\x38\x82\x07"),
    "cr0 read": ("cr-read", b"", b"\x0f\x20\xc3"),  # to RBX
    "cr2 read": ("cr-read", b"", b"\x0f\x20\xd3"),
    "cr3 read": ("cr-read", b"", b"\x0f\x20\xdb"),
    "cr4 read": ("cr-read", b"", b"\x0f\x20\xe3"),
    "cr8 read": ("cr-read", b"", b"\x44\x0f\x20\xc3"),
    "smsw": ("cr-read", b"", b"\x0f\x01\xe3"),
    "cr0 write": ("cr-write", rbx(0x80000033), b"\x0f\x22\xc3"),
    "cr2 write": ("cr-write", rbx(0x1234), b"\x0f\x22\xd3"),
    "cr3 write": ("cr-write", rbx(0x5000), b"\x0f\x22\xdb"),
    "cr4 write": ("cr-write", rbx(0xA0), b"\x0f\x22\xe3"),
    "cr8 write": ("cr-write", rbx(5), b"\x44\x0f\x22\xc3"),
    "lmsw": ("cr-write", rbx(0x3), b"\x0f\x01\xf3"),
    "clts": ("cr-write", b"", b"\x0f\x06"),
    "dr0 read": ("dr-read", b"", b"\x0f\x21\xc3"),
    "dr7 read": ("dr-read", b"", b"\x0f\x21\xfb"),
    "dr0 write": ("dr-write", rbx(0x1234), b"\x0f\x23\xc3"),
    "dr7 write": ("dr-write", rbx(0x400), b"\x0f\x23\xfb"),
    "sgdt": ("descriptor-table", rdi(TABLE), b"\x0f\x01\x07"),
    "sidt": ("descriptor-table", rdi(TABLE), b"\x0f\x01\x0f"),
    "sldt": ("descriptor-table", rdi(TABLE), b"\x0f\x00\x07"),
    "str": ("descriptor-table", rdi(TABLE), b"\x0f\x00\x0f"),
    "lgdt": ("descriptor-table", rdi(TABLE), b"\x0f\x01\x17"),
    "lidt": ("descriptor-table", rdi(TABLE), b"\x0f\x01\x1f"),
    "lldt": ("descriptor-table", rdi(TABLE), b"\x0f\x00\x17"),
    "ltr": ("descriptor-table", rdi(TABLE), b"\x0f\x00\x1f"),
    "pushf": ("pushf", b"", b"\x9c"),
    "popf": ("popf", b"\x6a\x02", b"\x9d"),
    "iret": ("iret", b"", IRETQ),
    "icebp": ("icebp", b"", b"\xf1"),
    "int 0x55": ("software-interrupt", b"", b"\xcd\x55"),
    "rdmsr": ("rdmsr", rax(0) + rcx(0x174), b"\x0f\x32"),
    "wrmsr": ("wrmsr", rax(0x11112222) + rdx(0x33334444) + rcx(0x174), b"\x0f\x30"),
    "rdmsr high": ("rdmsr", rax(0) + rcx(0xC0000102), b"\x0f\x32"),
    "rdmsr unmapped": ("rdmsr", rax(0) + rcx(0x4000000), b"\x0f\x32"),
    "stgi": ("svm-instruction", b"", b"\x0f\x01\xdc"),
    "clgi": ("svm-instruction", b"", b"\x0f\x01\xdd"),
    "vmrun": ("svm-instruction", rax(TABLE), b"\x0f\x01\xd8"),
    "vmload": ("svm-instruction", rax(TABLE), b"\x0f\x01\xda"),
    "vmsave": ("svm-instruction", rax(TABLE), b"\x0f\x01\xdb"),
    "skinit": ("svm-instruction", rax(TABLE), b"\x0f\x01\xde"),
    "invlpga": ("svm-instruction", rax(TABLE) + rcx(0), b"\x0f\x01\xdf"),
    "rdrand": ("rdrand", b"", b"\x48\x0f\xc7\xf3"),  # to RBX
    "rdseed": ("rdseed", b"", b"\x48\x0f\xc7\xfb"),
    "vmclear": ("vmx-instruction", rdi(TABLE), b"\x66\x0f\xc7\x37"),
    "vmlaunch": ("vmx-instruction", b"", b"\x0f\x01\xc2"),
    "vmptrld": ("vmx-instruction", rdi(TABLE), b"\x0f\xc7\x37"),
    "vmptrst": ("vmx-instruction", rdi(TABLE), b"\x0f\xc7\x3f"),
    "vmread": ("vmx-instruction", b"", b"\x0f\x78\xc3"),
    "vmresume": ("vmx-instruction", b"", b"\x0f\x01\xc3"),
    "vmwrite": ("vmx-instruction", b"", b"\x0f\x79\xc3"),
    "vmxoff": ("vmx-instruction", b"", b"\x0f\x01\xc4"),
    "vmxon": ("vmx-instruction", rdi(TABLE), b"\xf3\x0f\xc7\x37"),
    "encls": ("encls", rax(0), b"\x0f\x01\xcf"),
    "umwait": ("umwait", rax(0) + rdx(0), b"\xf2\x0f\xae\xf0"),
    "tpause": ("tpause", rax(0) + rdx(0), b"\x66\x0f\xae\xf0"),
    "invept": ("vmx-instruction", rdi(TABLE) + rax(1), b"\x66\x0f\x38\x80\x07"),
    "invvpid": ("vmx-instruction", rdi(TABLE) + rax(1), b"\x66\x0f\x38\x81\x07"),
}


def instruction(engine: str, name: str, does: str = "answer", **options: int | str) -> dict[str, object]:
    """One instruction, seen by level 1 under a level that does not care; RAX and RBX are kept."""
    reason, before, code = INSTRUCTIONS[name]
    return run(engine, rbx(0) + before + code + keep_both() + done(), [watch(reason, does, **options), "logger"])


def keep_both() -> bytes:
    """RAX and RBX go to results 0 and 1; changes RDI."""
    return rdi(RESULTS) + b"\x48\x89\x07\x48\x89\x5f\x08"


def instruction_at(name: str) -> int:
    """Where the instruction is, from CODE on."""
    return len(rbx(0) + INSTRUCTIONS[name][1])


# What a level that declines leaves to the processor: RAX and RBX afterwards say that it was done.
DECLINED = (
    *("rdtsc", "rdpmc", "pause", "wbinvd", "monitor", "invlpg", "cr0 read", "cr4 write", "cr8 write", "smsw", "clts"),
    *("dr7 read", "dr0 write", "sgdt", "lgdt", "rdmsr", "wrmsr"),
    *("rdtscp", "mwait", "invd", "xsetbv", "invpcid", "cr3 read", "cr0 write", "dr7 write", "str", "rdrand"),
)


def fault(engine: str) -> dict[str, object]:
    """CPUID faults; its handler keeps the error code and goes on behind it."""
    handler = b"\x48\x8b\x04\x24" + keep(0) + DROP_ERROR_CODE + b"\x48\x83\x04\x24\x02" + IRETQ
    code = with_handlers(cpuid(0) + rax(9) + keep(1) + done(), {13: handler})
    return run(engine, code, [watch("cpuid", "fault")])


def undefined(engine: str, code: bytes, levels: Sequence[LevelSpec]) -> dict[str, object]:
    """#UD."""
    return run(engine, with_handlers(code + done(1), {6: store(RESULTS, 6) + done()}), levels, 1)


def not_defined(engine: str, name: str, declined: bool) -> dict[str, object]:
    """Nobody claims it, or level 1 declines."""
    reason, before, code = INSTRUCTIONS[name]
    return undefined(engine, before + code, [watch(reason, "decline")] if declined else [])


def written(engine: str) -> dict[str, object]:
    """A level that handles a write to CR4 keeps it from happening: what the guest reads back is what was."""
    code = b"\x0f\x20\xe0" + keep(0) + rax(0xA0) + b"\x0f\x22\xe0" + b"\x0f\x20\xe0" + keep(1) + done()
    return run(engine, code, [watch("cr-write", "handled", first=4, last=4)])


def one_register(engine: str) -> dict[str, object]:
    """Only CR3's writes are claimed: CR4's writes and CR3's reads go unseen."""
    code = b"\x0f\x20\xd8" + b"\x0f\x22\xd8" + b"\x0f\x20\xe0" + b"\x0f\x22\xe0" + keep(0) + done()
    return run(engine, code, [watch("cr-write", "decline", first=3, last=3)])


def one_msr(engine: str) -> dict[str, object]:
    """Only writes of one MSR are claimed: its reads, and other MSRs, do not exit."""
    code = wrmsr(0x174, 0x10) + rdmsr(0x174) + keep(0) + wrmsr(0x175, 0x20) + rdmsr(0x175) + keep(1) + done()
    return run(engine, code, [watch("wrmsr", "decline", first=0x174, last=0x174)])


CASES = {
    **{f"reason {name}": (lambda engine, name=name: instruction(engine, name)) for name in INSTRUCTIONS},
    **{f"declined {name}": (lambda engine, name=name: instruction(engine, name, "decline")) for name in DECLINED},
    **{
        f"{how} {name}": (lambda engine, name=name, how=how: not_defined(engine, name, how == "refused"))
        for name in ("hypercall", "stgi", "vmrun", "invlpga")
        for how in ("undefined", "refused")
    },
    "undefined rsm": lambda engine: undefined(engine, b"\x0f\xaa", []),
    **{
        f"undefined {name}": (lambda engine, name=name: not_defined(engine, name, declined=False))
        for name in ("vmcall", "vmxon", "umwait", "tpause")
    },
    "fault": fault,
    "retry": lambda engine: instruction(engine, "rdtsc", "retry"),
    "written": written,
    "one register": one_register,
    "one msr": one_msr,
}


def possible(engine: str) -> dict[str, Callable[[str], dict[str, object]]]:
    """The cases whose instruction this engine can trap."""

    def traps(name: str) -> bool:
        how, _, instruction = name.partition(" ")
        if how not in ("reason", "declined", "refused") or instruction not in INSTRUCTIONS:
            return True
        return engine in REASONS[ExitReason.from_label(INSTRUCTIONS[instruction][0])].engines

    return {name: case for name, case in CASES.items() if traps(name)}

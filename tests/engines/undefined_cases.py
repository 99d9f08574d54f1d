"""Runs in a lab whose processor lacks an instruction: towers whose L1 exposes it, under a switcher engine.

undefined_cases.py ENGINE; svm: the lab lacks POPCNT and CRC32, vmx: RDPID.

Prints as JSON how each guest ended, what it kept, who handled what, and how often Python's hypervisors were entered.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

from guest_code import (
    CODE,
    IRETQ,
    POPCNT,
    STI,
    UD2,
    cpuid,
    done,
    keep,
    load,
    rax,
    rbx,
    rdi,
    repeat,
    run_in,
    spec_of,
    store,
    with_handlers,
    wrmsr,
)
from guest_code import results as kept
from print_cases import print_cases

from nestvmm.hypervisors import HANDLED, Event, ExitReason, HandlerClaim, Hypervisor, Result
from nestvmm.kvm import Kvm
from nestvmm.nesting import Account, Clock, GuestSpec, LevelSpec, Tower, TowerSpec
from nestvmm.nesting.features.report import report_features

HERE = f"{Path(__file__)}:"
UD, PF = 6, 14
VALUE = 0x123456789ABCDEF0
TSC_AUX = 0xC0000103
CRC32 = b"\xf2\x48\x0f\x38\xf1\xc3"  # crc32q %rbx, %rax
POPCNT_RDI = b"\xf3\x48\x0f\xb8\x07"  # popcnt (%rdi), %rax
GDT = 0x130000
MEMORY = 4 << 20
KEEP_FRAME = b"\x48\x8b\x04\x24" + keep(1)  # RIP of a frame without an error code
PLAIN = (LevelSpec(HERE + "Watching"), LevelSpec(HERE + "Watching"))


class Lacking(NamedTuple):
    """An instruction that the processor lacks.

    name:    of its feature
    setup:   what stands before it
    code:    what puts the number of ones in VALUE into RAX after that
    narrow:  the same in code of 32 and of 16 bits
    leaf:    of CPUID, whose ECX has its bit
    bit:     this one
    """

    name: str
    setup: bytes
    code: bytes
    narrow: bytes
    leaf: int
    bit: int


LACKING = {
    "svm": Lacking("popcnt", rbx(VALUE), POPCNT, b"\xf3\x0f\xb8\xc3", 1, 23),
    "vmx": Lacking(
        "rdpid",
        wrmsr(TSC_AUX, VALUE.bit_count()),
        b"\xf3\x0f\xc7\xf8",
        b"\xf3\x0f\xc7\xf8",
        7,
        22,
    ),
}


class Watching(Hypervisor):
    """Counts whatever is done with any such hypervisor."""

    touched: ClassVar[list[int]] = [0]

    def __getattribute__(self, name: str) -> object:
        Watching.touched[0] += 1
        return super().__getattribute__(name)


class Own(Watching):
    """Emulates the first one itself, whatever it is: 42. Declines all else that it claims."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._done = False

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.EMULATION_FAILURE, 0, (1 << 64) - 1, None, self.handle)]

    def handle(self, event: Event) -> Result:
        if self._done:
            return Result.declined()
        self._done = True
        regs = self.guest.regs
        regs.rip += self._length
        regs.rax = 42
        self.guest.set_regs(regs)
        return HANDLED


def run(
    engine: str,
    code: bytes,
    levels: Sequence[LevelSpec] = PLAIN,
    expose: Sequence[str] = (),
    memory: dict[int, bytes] | None = None,
    handlers: dict[int, bytes] | None = None,
) -> dict[str, object]:
    clock = Clock()
    image = with_handlers(code + done(), handlers or {UD: KEEP_FRAME + done(UD)})
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), image, levels, engine=engine, memory=MEMORY)
        spec = replace(spec, expose=tuple(expose) or (f"L1:+{LACKING[engine].name}",))
        with Tower(spec) as tower:
            for address, content in (memory or {}).items():
                tower.memory[tower.height].write(address, content)
            # the tower has loaded this file as a module of its own
            counters: list[list[int]] = [getattr(type(one), "touched") for one in tower.hypervisors]  # noqa: B009
            before = [counter[0] for counter in counters]
            result = run_in(tower)
            touched = sum(counter[0] for counter in counters) - sum(before)
            rows = Account.of(tower, clock, 1.0).rows
            return {
                "status": result.status,
                "message": result.message,
                "kept": kept(tower, 4),
                "exits": int(tower.engine.vcpu.exits),
                "rows": sorted([row.level, row.who, row.reason, row.count] for row in rows if row.who != "debug exit"),
                "touched": touched,
                "lacks": dict(tower.exposure.offer.lacks),
                "seen": [LACKING[engine].name in tower.exposure.seen(level) for level in range(tower.height + 1)],
                "first": LACKING[engine].name in tower.exposure.offer.first,
            }


def count(engine: str) -> bytes:
    """The instruction, once; its result is kept."""
    one = LACKING[engine]
    return one.setup + one.code + keep(0)


def level_3(engine: str) -> dict[str, object]:
    """A program at level 3 over two Python hypervisors: CPUID shows it the instruction, and a loop of it works."""
    body = LACKING[engine].code + b"\x48\x01\xc6"  # add %rax, %rsi
    sum_ = b"\x48\x31\xf6" + repeat(100, body) + b"\x48\x89\xf0" + keep(1)
    return run(engine, count(engine) + sum_ + cpuid(LACKING[engine].leaf) + b"\x48\x89\xc8" + keep(2))


def flags(engine: str) -> dict[str, object]:
    return run(engine, rax(0) + rbx(0) + POPCNT + b"\x9c\x58" + keep(0))


def declines(engine: str) -> dict[str, object]:
    levels = (LevelSpec(HERE + "Own", {"length": len(LACKING[engine].code)}), LevelSpec(HERE + "Watching"))
    return run(engine, count(engine) + LACKING[engine].code + keep(1), levels)


def another(engine: str) -> dict[str, object]:
    """CRC32, which comes with another feature."""
    return run(engine, rax(0xFFFFFFFF) + rbx(0x31) + CRC32 + keep(0), expose=("L1:+popcnt,+crc32",))


def ring_3(engine: str) -> dict[str, object]:
    """At CPL 3: IRETQ there, the instruction, POPCNT of memory, and the debug exit by IOPL 3."""
    descriptors = [0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00AFFB000000FFFF, 0x00CFF3000000FFFF]
    gdt = b"".join(struct.pack("<Q", one) for one in descriptors)
    lgdt = b"\x0f\x01\x14\x25" + struct.pack("<I", GDT + 0x100)
    inner = CODE + 0x1000
    frame = b"".join(rax(one) + b"\x50" for one in (0x2B, 0x1F0000, 0x3002, 0x23, inner))
    user = LACKING[engine].code + keep(0)
    user += (rdi(GDT + 0x200) + POPCNT_RDI + keep(1) if engine == "svm" else b"") + done(3)
    user_pages = b"\x0f\x20\xdb" + open_to_user()
    image = (user_pages + lgdt + frame + LACKING[engine].setup + IRETQ).ljust(inner - CODE - 8, b"\x90") + user
    memory = {GDT: gdt, GDT + 0x100: struct.pack("<HQ", len(gdt) - 1, GDT), GDT + 0x200: b"\xff" * 5 + bytes(3)}
    return run(engine, image, memory=memory)


def open_to_user() -> bytes:
    """The first entries of the tables that RBX points at get the user bit, down to the first 2 MiB pages."""
    step = b"\x48\x83\x0b\x04" + b"\x48\x8b\x1b" + b"\x48\x81\xe3\x00\xf0\xff\xff"  # orq $4, (%rbx); mov; and
    leaf = b"\x48\x83\x0b\x04\x48\x83\x4b\x08\x04"
    return step + step + leaf + b"\x0f\x20\xdb\x0f\x22\xdb"


def narrow(engine: str, bits: int) -> dict[str, object]:
    """The instruction in 32-bit or 16-bit code."""
    selector = {32: 0x20, 16: 0x28}[bits]
    base = 0x20000
    descriptors = [0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF]
    descriptors += [flags << 40 | base << 16 | 0xFFFF for flags in (0x004F9B, 0x000F9B)]
    gdt = b"".join(struct.pack("<Q", one) for one in descriptors)
    lgdt = b"\x0f\x01\x14\x25" + struct.pack("<I", GDT + 0x100)
    inner, after = CODE + 0x1000, CODE + 0x2000
    far = LACKING[engine].setup + rax(selector) + b"\x50" + rax(inner - base) + b"\x50" + rax(0) + b"\x48\xcb"
    back = (b"\x66" if bits == 16 else b"") + b"\xea" + struct.pack("<IH", after, 0x10)
    inside = LACKING[engine].narrow + back
    image = (lgdt + far).ljust(inner - CODE - 8, b"\x90") + inside.ljust(0x1000, b"\x90") + keep(0)
    return run(engine, image, memory={GDT: gdt, GDT + 0x100: struct.pack("<HQ", len(gdt) - 1, GDT)})


def split(engine: str) -> dict[str, object]:
    """The instruction across the end of a page."""
    one = LACKING[engine]
    return run(engine, one.setup.ljust(0xFFE - 8, b"\x90") + one.code + keep(0))


def page_fault(engine: str) -> dict[str, object]:
    """Its operand is not mapped: #PF at the instruction, which the guest sees as if its processor had it."""
    handler = b"\x58" + keep(0) + b"\x0f\x20\xd0" + keep(1) + b"\x58" + keep(2) + done(PF)
    return run(engine, rdi(0x8000001234) + POPCNT_RDI, handlers={PF: handler})


def own_handler(engine: str) -> dict[str, object]:
    """UD2 that nobody claims arrives at the guest's own handler, which returns behind it, before and after another."""
    handler = b"\x50\x57" + rax(1) + keep(1) + b"\x5f\x58" + b"\x48\x83\x04\x24\x02" + IRETQ
    return run(engine, UD2 + count(engine) + STI + UD2 + LACKING[engine].code, handlers={UD: handler})


def hidden(engine: str) -> dict[str, object]:
    return run(engine, count(engine), expose=("L1:-popcnt", "L1:+crc32"))


def nothing_emulated(engine: str) -> dict[str, object]:
    everything = ",".join(f"-{name}" for name in ("popcnt", "crc32", "movbe", "rdrand", "rdpid"))
    return run(engine, count(engine), expose=(f"L1:{everything}",))


def stored(engine: str) -> dict[str, object]:
    """Memory that changed just before it."""
    return run(engine, store(GDT, 0xFFFF) + rdi(GDT) + POPCNT_RDI + keep(0) + load(GDT) + keep(1))


def offered(engine: str, name: str) -> list[str]:
    """What `nestvmm features` says of L0 and the instruction."""
    rows = report_features(TowerSpec(GuestSpec(Path()), engine=engine)).features
    row = next(row for row in rows if row.name == name)
    return [row.l0, row.why]


CASES = {
    "level 3": level_3,
    "declines": declines,
    "ring 3": ring_3,
    "32-bit": lambda engine: narrow(engine, 32),
    "16-bit": lambda engine: narrow(engine, 16),
    "split": split,
    "own handler": own_handler,
    "nothing emulated": nothing_emulated,
}
# With operands in memory, and with a second instruction that is lacking: POPCNT and CRC32.
ALL_CASES = {
    "svm": {
        **CASES,
        "another": another,
        "flags": flags,
        "page fault": page_fault,
        "hidden": hidden,
        "stored": stored,
    },
    "vmx": CASES,
}

if __name__ == "__main__":
    engine = sys.argv[1]
    one = LACKING[engine]
    with Kvm() as kvm:
        leaf = next(entry for entry in kvm.get_supported_cpuid() if (entry.function, entry.index) == (one.leaf, 0))
    print_cases(
        {name: partial(case, engine) for name, case in ALL_CASES[engine].items()},
        **{"kvm has it": bool(leaf.ecx >> one.bit & 1)},
        offered={where: offered(where, one.name) for where in ("direct", engine)},
    )

"""Runs in an SVM lab whose processor lacks POPCNT and CRC32: towers whose L1 exposes them, under the svm engine.

Prints as JSON how each guest ended, what it kept, who handled what, and how often Python's hypervisors were entered.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from guest_code import (
    CODE,
    IRETQ,
    POPCNT,
    STI,
    UD2,
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
)
from guest_code import results as kept

from nestvmm.hypervisors import HANDLED, Event, ExitReason, HandlerClaim, Hypervisor, Result
from nestvmm.kvm import Kvm
from nestvmm.nesting import Account, Clock, GuestSpec, LevelSpec, Tower, TowerSpec
from nestvmm.nesting.features.report import report_features

HERE = f"{Path(__file__)}:"
UD, PF = 6, 14
VALUE = 0x123456789ABCDEF0
CRC32 = b"\xf2\x48\x0f\x38\xf1\xc3"  # crc32q %rbx, %rax
POPCNT_RDI = b"\xf3\x48\x0f\xb8\x07"  # popcnt (%rdi), %rax
GDT = 0x130000
MEMORY = 4 << 20
KEEP_FRAME = b"\x48\x8b\x04\x24" + keep(1)  # RIP of a frame without an error code
PLAIN = ("Watching", "Watching")


class Watching(Hypervisor):
    """Counts whatever is done with any such hypervisor."""

    touched: ClassVar[list[int]] = [0]

    def __getattribute__(self, name: str) -> object:
        Watching.touched[0] += 1
        return super().__getattribute__(name)


class Own(Watching):
    """Emulates POPCNT itself: always 42. Declines all else that it claims."""

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.EMULATION_FAILURE, 0, (1 << 64) - 1, None, self.handle)]

    def handle(self, event: Event) -> Result:
        if not event.instruction.startswith(POPCNT):
            return Result.declined()
        regs = self.guest.regs
        regs.rip += len(POPCNT)
        regs.rax = 42
        self.guest.set_regs(regs)
        return HANDLED


def run(
    code: bytes,
    levels: Sequence[str] = PLAIN,
    expose: Sequence[str] = ("L1:+popcnt",),
    memory: dict[int, bytes] | None = None,
    handlers: dict[int, bytes] | None = None,
) -> dict[str, object]:
    clock = Clock()
    image = with_handlers(code + done(), handlers or {UD: KEEP_FRAME + done(UD)})
    with tempfile.TemporaryDirectory() as folder:
        specs = [LevelSpec(HERE + level if level[0].isupper() else level) for level in levels]
        spec = replace(spec_of(Path(folder), image, specs, engine="svm", memory=MEMORY), expose=tuple(expose))
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
                "popcnt": ["popcnt" in tower.exposure.seen(level) for level in range(tower.height + 1)],
                "first": "popcnt" in tower.exposure.offer.first,
            }


COUNT = rbx(VALUE) + POPCNT + keep(0)


def level_3() -> dict[str, object]:
    """A program at level 3 over two Python hypervisors: CPUID shows it POPCNT, and a loop of it works."""
    body = POPCNT + b"\x48\x01\xc1"  # add %rax, %rcx
    sum_ = b"\x48\x31\xc9" + repeat(100, body) + b"\x48\x89\xc8" + keep(1)
    leaf = rax(1) + b"\x48\x31\xc9\x0f\xa2\x48\x89\xc8" + keep(2)  # ECX of leaf 1
    return run(COUNT + sum_ + leaf + rax(0) + rbx(0) + POPCNT + b"\x9c\x58" + keep(3))


def declines() -> dict[str, object]:
    return run(COUNT + rax(0xFFFFFFFF) + rbx(0x31) + CRC32 + keep(1), ("Own", "Watching"), ("L1:+popcnt,+crc32",))


def ring_3() -> dict[str, object]:
    """At CPL 3: IRETQ there, POPCNT of memory, and the debug exit by IOPL 3."""
    descriptors = [0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00AFFB000000FFFF, 0x00CFF3000000FFFF]
    gdt = b"".join(struct.pack("<Q", one) for one in descriptors)
    lgdt = b"\x0f\x01\x14\x25" + struct.pack("<I", GDT + 0x100)
    inner = CODE + 0x1000
    frame = b"".join(rax(one) + b"\x50" for one in (0x2B, 0x1F0000, 0x3002, 0x23, inner))
    user = rdi(GDT + 0x200) + POPCNT_RDI + keep(0) + done(3)
    user_pages = b"\x0f\x20\xdb" + open_to_user()
    image = (user_pages + lgdt + frame + IRETQ).ljust(inner - CODE - 8, b"\x90") + user
    memory = {GDT: gdt, GDT + 0x100: struct.pack("<HQ", len(gdt) - 1, GDT), GDT + 0x200: b"\xff" * 5 + bytes(3)}
    return run(image, memory=memory)


def open_to_user() -> bytes:
    """The first entries of the tables that RBX points at get the user bit, down to the first 2 MiB pages."""
    step = b"\x48\x83\x0b\x04" + b"\x48\x8b\x1b" + b"\x48\x81\xe3\x00\xf0\xff\xff"  # orq $4, (%rbx); mov; and
    leaf = b"\x48\x83\x0b\x04\x48\x83\x4b\x08\x04"
    return step + step + leaf + b"\x0f\x20\xdb\x0f\x22\xdb"


def narrow(bits: int) -> dict[str, object]:
    """POPCNT in 32-bit or 16-bit code."""
    selector = {32: 0x20, 16: 0x28}[bits]
    base = 0x20000
    descriptors = [0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF]
    descriptors += [flags << 40 | base << 16 | 0xFFFF for flags in (0x004F9B, 0x000F9B)]
    gdt = b"".join(struct.pack("<Q", one) for one in descriptors)
    lgdt = b"\x0f\x01\x14\x25" + struct.pack("<I", GDT + 0x100)
    inner, after = CODE + 0x1000, CODE + 0x2000
    far = rax(selector) + b"\x50" + rax(inner - base) + b"\x50" + rax(0) + rbx(0xF00F00FF) + b"\x48\xcb"
    back = (b"\x66" if bits == 16 else b"") + b"\xea" + struct.pack("<IH", after, 0x10)
    image = (
        (lgdt + far).ljust(inner - CODE - 8, b"\x90") + (b"\xf3\x0f\xb8\xc3" + back).ljust(0x1000, b"\x90") + keep(0)
    )
    return run(image, memory={GDT: gdt, GDT + 0x100: struct.pack("<HQ", len(gdt) - 1, GDT)})


def split() -> dict[str, object]:
    """POPCNT across the end of a page."""
    at = 0xFFE - 8
    return run((rbx(VALUE) + b"\x90" * (at - 10)) + POPCNT + keep(0))


def page_fault() -> dict[str, object]:
    """Its operand is not mapped: #PF at the instruction, which the guest sees as if its processor had it."""
    handler = b"\x58" + keep(0) + b"\x0f\x20\xd0" + keep(1) + b"\x58" + keep(2) + done(PF)
    return run(rdi(0x8000001234) + POPCNT_RDI, handlers={PF: handler})


def own_handler() -> dict[str, object]:
    """UD2 that nobody claims arrives at the guest's own handler, which returns behind it, before and after POPCNT."""
    handler = b"\x50\x57" + rax(1) + keep(1) + b"\x5f\x58" + b"\x48\x83\x04\x24\x02" + IRETQ
    return run(UD2 + COUNT + STI + UD2 + POPCNT, handlers={UD: handler})


def hidden() -> dict[str, object]:
    return run(COUNT, expose=("L1:-popcnt", "L1:+crc32"))


def nothing_emulated() -> dict[str, object]:
    everything = ",".join(f"-{name}" for name in ("popcnt", "crc32", "movbe", "rdrand", "rdpid"))
    return run(COUNT, expose=(f"L1:{everything}",))


def stored() -> dict[str, object]:
    """Memory that changed just before it."""
    return run(store(GDT, 0xFFFF) + rdi(GDT) + POPCNT_RDI + keep(0) + load(GDT) + keep(1))


def offered(engine: str) -> list[str]:
    """What `nestvmm features` says of L0 and POPCNT."""
    rows = report_features(TowerSpec(GuestSpec(Path()), engine=engine)).features
    row = next(row for row in rows if row.name == "popcnt")
    return [row.l0, row.why]


CASES = {
    "level 3": level_3,
    "declines": declines,
    "ring 3": ring_3,
    "32-bit": lambda: narrow(32),
    "16-bit": lambda: narrow(16),
    "split": split,
    "page fault": page_fault,
    "own handler": own_handler,
    "hidden": hidden,
    "nothing emulated": nothing_emulated,
    "stored": stored,
}

if __name__ == "__main__":
    with Kvm() as kvm:
        leaf1 = next(entry for entry in kvm.get_supported_cpuid() if entry.function == 1)
    found: dict[str, object] = {"kvm has popcnt": bool(leaf1.ecx & 1 << 23)}
    for name, case in CASES.items():
        print(name, file=sys.stderr, flush=True)
        found[name] = case()
    found["offered"] = {engine: offered(engine) for engine in ("direct", "svm")}
    print(json.dumps(found))

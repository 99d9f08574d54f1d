"""Runs in the SVM lab: CPUID in odd places and forms under the svm engine, whose processor there does not tell lengths.

Prints as JSON where each exit was, with which bytes, and what the guest kept after it.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from pathlib import Path

from guest_code import CODE, UD2, done, keep, rax, run_in, spec_of, store, with_handlers
from guest_code import results as kept
from print_cases import print_cases

from nestvmm.hypervisors import HANDLED, Event, ExitReason, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec, Tower

HERE = f"{Path(__file__)}:"
LEAF = 0x40000123
CPUID = b"\x0f\xa2"
PF = 14

GDT = 0x130000
# Of CODE's segment: 64-bit code, 32-bit code with a base, 16-bit code with a base, flat data.
BASE = 0x20000
TABLES = 0x140000
MAPPED = 0x8000000000
PAGES = 0x150000
MEMORY = 4 << 20


class Keeper(Hypervisor):
    """Keeps where each exit was; its answer is RAX = the number of exits so far."""

    def __init__(self, reason: str) -> None:
        self._reason = ExitReason.from_label(reason)
        self.seen: list[list[object]] = []

    def claims(self) -> list[HandlerClaim]:
        return [(self._reason, 0, (1 << 64) - 1, None, self.handle)]

    def handle(self, event: Event) -> Result:
        regs = self.guest.regs
        self.seen.append([regs.rip, event.qualifier, event.instruction.hex()])
        regs.rax = len(self.seen)
        self.guest.set_regs(regs)
        return HANDLED


def run(code: bytes, memory: dict[int, bytes] | None = None, reason: str = "cpuid") -> dict[str, object]:
    levels = [LevelSpec(HERE + "Keeper", {"reason": reason})]
    with (
        tempfile.TemporaryDirectory() as folder,
        Tower(spec_of(Path(folder), code, levels, engine="svm", memory=MEMORY)) as tower,
    ):
        for address, content in (memory or {}).items():
            tower.memory[tower.height].write(address, content)
        result = run_in(tower)
        return {
            "status": result.status,
            "message": result.message,
            "seen": getattr(tower.hypervisors[0], "seen"),  # noqa: B009 the type is Hypervisor
            "kept": kept(tower, 3),
        }


def form(instruction: str, reason: str) -> dict[str, object]:
    """An instruction, then RAX kept: a wrong length would execute rubbish in between."""
    return run(rax(LEAF) + b"\xb9\x03\0\0\0" + bytes.fromhex(instruction) + keep(0) + done(), reason=reason)


def map_pages(*pages: int) -> bytes:
    """Code that makes these physical pages (0: not present) follow one another at MAPPED."""
    patch = b"\x0f\x20\xdb"  # mov %cr3, %rbx
    patch += rax(TABLES | 3) + b"\x48\x89\x43\x08"  # mov %rax, 8(%rbx)
    entries = {TABLES: TABLES + 0x1000 | 3, TABLES + 0x1000: TABLES + 0x2000 | 3}
    entries |= {TABLES + 0x2000 + 8 * number: page | 3 if page else 0 for number, page in enumerate(pages)}
    return patch + b"".join(store(address, entry) for address, entry in entries.items()) + rax(LEAF)


def jump(address: int) -> bytes:
    return b"\x48\xbb" + struct.pack("<Q", address) + b"\xff\xe3"


def page_end() -> dict[str, object]:
    """CPUID ends a page, and the next one is not there: the fault is the next instruction's, at the first byte."""
    keep_cr2 = b"\x0f\x20\xd0" + keep(1)
    code = with_handlers(map_pages(PAGES, 0) + jump(MAPPED + 0xFFE), {PF: keep(0) + keep_cr2 + done()})
    return run(code, {PAGES + 0xFFE: CPUID})


def split() -> dict[str, object]:
    """CPUID lies on two pages that are apart."""
    after = keep(0) + done()
    code = map_pages(PAGES + 0x3000, PAGES) + jump(MAPPED + 0xFFD)
    return run(code, {PAGES + 0x3FFD: b"\x66\x67\x0f", PAGES: b"\xa2" + after, PAGES + 0x4000: UD2})


def narrow(bits: int) -> dict[str, object]:
    """CPUID with a prefix in 32-bit or 16-bit code whose segment starts at BASE; then back by a far jump."""
    selector = {32: 0x20, 16: 0x28}[bits]
    descriptors = [0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF]
    for flags in (0x004F9B, 0x000F9B):  # D; neither; limits of 1 MiB
        descriptors.append(flags << 40 | BASE << 16 | 0xFFFF)
    gdt = b"".join(struct.pack("<Q", one) for one in descriptors)
    load = b"\x0f\x01\x14\x25" + struct.pack("<I", GDT + 0x100)  # lgdt
    far = rax(selector) + b"\x50" + rax(CODE + 0x1000 - BASE) + b"\x50" + rax(LEAF) + b"\x48\xcb"  # lretq
    back = struct.pack("<IH", CODE + 0x2000, 0x10)
    # 66h makes the far jump of 16-bit code one with 32 bits of offset
    inner = b"\x66" + CPUID + (b"\x66" if bits == 16 else b"") + b"\xea" + back
    image = (load + far).ljust(0x1000, b"\x90") + inner.ljust(0x1000, b"\x90") + keep(0) + done()
    return run(image, {GDT: gdt, GDT + 0x100: struct.pack("<HQ", len(gdt) - 1, GDT)})


FORMS = {
    "cpuid": ("0fa2", "cpuid"),
    "cpuid 66": ("660fa2", "cpuid"),
    "cpuid 48": ("480fa2", "cpuid"),
    "cpuid longest": ("66" * 12 + "480fa2", "cpuid"),
    "rdtsc 2e": ("2e0f31", "rdtsc"),
    "rdpmc 3e": ("3e480f33", "rdpmc"),
    "pause 66": ("66f390", "pause"),
    "hlt 67": ("67f4", "hlt"),
    "wbnoinvd": ("f30f09", "wbinvd"),
    "hypercall": ("660f01d9", "hypercall"),
}
CASES = {
    **{name: (lambda case=case: form(*case)) for name, case in FORMS.items()},
    "page end": page_end,
    "split": split,
    "32-bit": lambda: narrow(32),
    "16-bit": lambda: narrow(16),
}

if __name__ == "__main__":
    print_cases(CASES, sys.argv[1:])

"""One guest for many cases: an instruction at CPL 0, completed by L0, or at CPL 3, where the processor runs it.

The guest is only page tables, an IDT whose handlers say by an OUT which exception arrived, and memory. Each case is
state set from outside, one instruction, and the state afterwards.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from nestvmm._native import ffi
from nestvmm.engines import DirectEngine, EngineConfig, RunStatus
from nestvmm.kvm import CpuidEntry, HostMemory, KvmError, Regs
from nestvmm.nesting.designation import DesignationTable
from nestvmm.nesting.flat import compile_table
from nestvmm.nesting.memory import Slot
from nestvmm.x86.event import Outcome
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.state import LONG_MODE_GDT, Entry, enter

MEMORY = 4 << 20
MARGIN = 64 << 10
PML4, PDPT, DIRECTORY, TABLES = 0x1000, 0x2000, 0x3000, 0x4000  # two page tables map 4 MiB
GDT, TSS, IDT, STUBS, STACK = 0x8000, 0x9000, 0xA000, 0xB000, 0xE000
CODE = 0x100FF0  # an instruction of 15 bytes stays in its page, one of 16 would not
DATA = 0x200000
DATA_SIZE = 0x2000
ABSENT = DATA + DATA_SIZE  # one page that is not mapped
READONLY = ABSENT + 0x1000  # one page that cannot be written
UNBACKED = 0x3FF000  # mapped to a physical address without memory
DONE = 0x80  # the port of the instruction behind the one under test

_P, _W, _U = 1, 2, 4
_IOPL = 3 << 12
_XSAVE, _AVX = 1 << 26, 1 << 28
_CR4 = 0x620 | 1 << 10  # PAE, OSFXSR, OSXMMEXCPT
_OSXSAVE = 1 << 18
_WITH_ERROR = {8, 10, 11, 12, 13, 14, 17, 21}
_STATUS = 0x8D5


@dataclass
class State:
    """What a case starts from and ends with. area: an XSAVE area in standard format, 832 bytes of it."""

    regs: dict[str, int]
    area: bytes
    data: bytes


@dataclass
class Ending:
    """vector is None when the instruction ran to its end; rip is that of the fault or of the next instruction."""

    vector: int | None
    error: int | None
    cr2: int | None
    rip: int
    state: State


def _with_avx(entries: list[CpuidEntry]) -> list[CpuidEntry]:
    for entry in entries:
        if entry.function == 1:
            entry.ecx |= _XSAVE | _AVX
    return entries


class Machine:
    """The guest; a context manager."""

    def __init__(self, *, cr0: int = 0, cr4: int = 0) -> None:
        self._host = HostMemory(MEMORY + 2 * MARGIN)
        self.lay_out()
        # the last page is mapped but not there
        self.engine = DirectEngine(EngineConfig("bare", 1, self._host, [Slot(0, UNBACKED, MARGIN, False)]))
        self.engine.set_cpuid(_with_avx(self.engine.supported_cpuid()))
        regs, self.sregs = self.engine.regs(), self.engine.sregs()
        enter(Entry("long", CODE, cr3=PML4, gdt_base=GDT, gdt_limit=len(LONG_MODE_GDT) - 1), regs, self.sregs)
        self.sregs.cr0 |= 1 << 16 | 1 << 1 | cr0  # WP, MP
        self.sregs.cr4 |= _CR4 | cr4
        self.sregs.idt.base, self.sregs.idt.limit = IDT, 32 * 16 - 1
        self.sregs.tr.base, self.sregs.tr.limit, self.sregs.tr.selector = TSS, 0x67, 0x28
        self.avx = self._switch_avx_on()
        table = compile_table(DesignationTable())
        self._keep: list[Any] = [
            table,
            ffi.new("struct nv_counter[]", table.slots),
            ffi.new("struct nv_unclaimed *"),
        ]
        vcpu = self.engine.vcpu
        vcpu.table, vcpu.counters, vcpu.unclaimed = table.table, self._keep[1], self._keep[2]
        vcpu.strict = True
        self.area_size = len(self.vcpu.get_xsave())

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.engine.__exit__(None, None, None)

    @property
    def vcpu(self) -> Any:
        return self.engine._vcpu

    def _switch_avx_on(self) -> bool:
        self.engine.set_sregs(self.sregs)
        try:
            self.vcpu.set_xcrs({0: 7})
            self.sregs.cr4 |= _OSXSAVE
            self.engine.set_sregs(self.sregs)
        except KvmError:
            self.sregs.cr4 &= ~_OSXSAVE
            return False
        return bool(self.engine.sregs().cr4 & _OSXSAVE)

    def write(self, address: int, data: bytes) -> None:
        """Writes guest memory."""
        self._host.write(MARGIN + address, data)

    def read(self, address: int, size: int) -> bytes:
        """Reads guest memory."""
        return self._host.read(MARGIN + address, size)

    def margins(self) -> tuple[bytes, bytes]:
        """What lies before and behind the guest's memory in this process."""
        end = MARGIN + UNBACKED
        return self._host.read(0, MARGIN), self._host.read(end, self._host.size - end)

    def fill_margins(self, pattern: bytes) -> None:
        """Makes them this pattern, repeated."""
        end = MARGIN + UNBACKED
        for first, size in ((0, MARGIN), (end, self._host.size - end)):
            self._host.write(first, (pattern * (size // len(pattern) + 1))[:size])

    def renew(self) -> None:
        """Undoes what a guest did to its tables, and to the events and debug registers of its processor."""
        self.lay_out()
        events = self.vcpu.get_events()
        self.vcpu.set_events(type(events)(flags=events.flags & ~1))
        self.vcpu.set_mp_state(0)

    def lay_out(self) -> None:
        """Page tables, GDT, TSS, IDT and its handlers."""
        for at, to in ((PML4, PDPT), (PDPT, DIRECTORY), (DIRECTORY, TABLES), (DIRECTORY + 8, TABLES + 0x1000)):
            self.write(at, struct.pack("<Q", to | _P | _W | _U))
        for page in range(MEMORY // 0x1000):
            rights = {ABSENT: 0, READONLY: _P | _U}.get(page * 0x1000, _P | _W | _U)
            self.write(TABLES + 8 * page, struct.pack("<Q", page * 0x1000 | rights))
        self.write(GDT, LONG_MODE_GDT)
        self.write(TSS + 0x24, struct.pack("<Q", STACK))  # IST 1
        for vector in range(32):
            at = STUBS + 16 * vector
            self.write(at, bytes([0xE6, vector]))
            gate = (at & 0xFFFF) | 0x10 << 16 | 1 << 32 | 0xEE << 40 | (at >> 16 & 0xFFFF) << 48
            self.write(IDT + 16 * vector, struct.pack("<QQ", gate, at >> 32))

    def prepare(self, code: bytes, state: State, cpl: int, at: int = CODE) -> None:
        """Code and state in their places; the next instruction is the code's first."""
        sregs = self.sregs
        self.write(at, code + bytes([0xE6, DONE]))
        self.write(DATA, state.data)
        selector = (0x10, 0x18) if cpl == 0 else (0x33, 0x2B)
        sregs.cs.selector, sregs.ss.selector = selector
        sregs.cs.dpl = sregs.ss.dpl = cpl
        sregs.cr2 = 0
        self.engine.set_sregs(sregs)
        regs = Regs(**state.regs)
        regs.rip = at
        regs.rflags = (regs.rflags & _STATUS) | 2 | _IOPL
        self.engine.set_regs(regs)
        self.vcpu.set_xsave(state.area.ljust(self.area_size, b"\0"))

    def completed(self, code: bytes, state: State, at: int = CODE) -> Ending:
        """The instruction at CPL 0, done by L0."""
        self.prepare(code, state, 0, at)
        engine = self.engine
        engine.completer.limit = 1
        result = engine.complete()
        if result.outcome is Outcome.HANDLED:
            return self._ending(None)
        assert result.outcome is Outcome.FAULTED, f"{code.hex()}: {result.message}"
        engine.settle()
        engine.exception(result.vector, result.error_code)
        return self._finish(code)

    def native(self, code: bytes, state: State, at: int = CODE) -> Ending:
        """The instruction at CPL 3, done by the processor."""
        self.prepare(code, state, 3, at)
        return self._finish(code)

    def _finish(self, code: bytes) -> Ending:
        """Runs to the OUT that says how it ended."""
        assert self.engine.run() == RunStatus.EVENT
        event = self.engine.vcpu.event
        assert event.reason == ExitReason.IO, f"{code.hex()}: {ExitReason(event.reason).label} {event.qualifier:#x}"
        port = event.qualifier
        self.engine.settle()
        return self._ending(None if port == DONE else port)

    def _ending(self, vector: int | None) -> Ending:
        regs = self.engine.regs()
        error = cr2 = None
        if vector is not None:
            size = 48 if vector in _WITH_ERROR else 40
            frame = struct.unpack(f"<{size // 8}Q", self.read(STACK - size, size))
            if vector in _WITH_ERROR:
                error, *frame = frame
                error = error & ~4 if vector == 14 else error  # CPL 3 is in it
            regs.rip, _, regs.rflags, regs.rsp, _ = frame
            cr2 = self.engine.sregs().cr2 if vector == 14 else None
        values = {name: getattr(regs, name) for name in Regs.__match_args__ if name not in ("rip", "rflags")}
        values["rflags"] = regs.rflags & _STATUS
        area = bytearray(self.vcpu.get_xsave()[:832])
        header = int.from_bytes(area[512:520], "little")
        # a component in its initial state need not be stored: give it that state's bytes
        if not header & 1:
            area[0:24] = struct.pack("<H", 0x37F) + bytes(22)
            area[32:160] = bytes(128)
        if not header & 2:
            area[160:416] = bytes(256)
        if not header & 4:
            area[576:832] = bytes(256)
        area[416:512] = bytes(96)
        area[512:576] = bytes(64)
        rip = regs.rip
        if vector is None and rip >= CODE and self.read(rip - 2, 2) == bytes([0xE6, DONE]):
            rip -= 2  # it ran to the OUT, and KVM stands behind that
        return Ending(vector, error, cr2, rip, State(values, bytes(area), self.read(DATA, DATA_SIZE)))

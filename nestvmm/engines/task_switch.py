"""A hardware task switch, done for a processor that leaves it to hypervisors: under VMX every one does.

Intel SDM vol. 3, 8.3 to 8.5; 26.4.2: what the processor has checked before the exit. A handler or another processor may
have changed the descriptors since, so they are looked at again.

    leave:  the old task's state goes to its TSS, the new one's comes from there; nothing has changed if this raises
    enter:  the segments are loaded; what this raises is the new task's exception
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from nestvmm.engines.segment import Descriptor, null_segment, virtual_8086_segment
from nestvmm.kvm import Regs, Segment, Sregs
from nestvmm.x86.control import CR0_PG, CR0_TS, RFLAGS_NT, RFLAGS_ONE, RFLAGS_VM

__all__ = ["FaultError", "LinearMemory", "Source", "TaskSwitch"]

_TS: Final = 10
_NP: Final = 11
_SS: Final = 12
_GP: Final = 13

_BUSY: Final = 2
_TABLE: Final = 4  # of a selector: it is of the LDT
_TYPES: Final = (1, 9)  # of available TSSs
_LDT: Final = 2
_REGISTERS: Final = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_FLAGS: Final = 0x3F7FD5  # of EFLAGS those that are not reserved
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")


class Source(IntEnum):
    """What a task switch comes of, as an exit qualification tells (Intel SDM vol. 3, table 28-2)."""

    CALL = 0
    IRET = 1
    JMP = 2
    GATE = 3  # of the IDT


class _Layout(NamedTuple):
    """A TSS as words: where EIP stands, behind which are EFLAGS, the general registers and `segments` selectors."""

    words: struct.Struct
    width: int
    eip: int
    segments: int


# Intel SDM vol. 3, figures 8-10 and 8-2: of 16 bits, and of 32 bits.
_LAYOUTS: Final = {1: _Layout(struct.Struct("<22H"), 2, 7, 4), 9: _Layout(struct.Struct("<26I"), 4, 8, 6)}
_CR3: Final = 7  # of 32 bits
_MAPS: Final = 25  # likewise: the debug trap flag in bit 0


class LinearMemory(Protocol):
    """Level n's linear addresses, for the processor's own accesses: those of CPL 0."""

    def read(self, sregs: Sregs, linear: int, size: int) -> bytes:
        """Raises PageFaultError and UnbackedError of nestvmm.engines.guest_paging."""
        ...

    def write(self, sregs: Sregs, linear: int, data: bytes) -> None:
        """Likewise."""
        ...


class FaultError(Exception):
    """The switch ends in this exception with this error code."""

    def __init__(self, vector: int, error_code: int) -> None:
        super().__init__(f"exception {vector} with error code {error_code:#x}")
        self.vector = vector
        self.error_code = error_code


class TaskSwitch:
    """One switch; `regs` and `sregs` become those of the new task.

    selector:    of the new TSS
    next_rip:    where the old task goes on
    error_code:  of the exception that came through a gate; None: it has none
    left:        whether the new task runs now
    traps:       whether the new TSS asks for a debug trap behind the switch
    """

    def __init__(
        self,
        memory: LinearMemory,
        regs: Regs,
        sregs: Sregs,
        *,
        selector: int,
        source: Source,
        next_rip: int,
        error_code: int | None = None,
    ) -> None:
        self.regs = regs
        self.sregs = sregs
        self.left = self.traps = False
        self._memory = memory
        self._selector = selector
        self._source = source
        self._next_rip = next_rip
        self._error_code = error_code
        self._selectors: list[int] = []
        self._ldt = 0
        self._layout = _LAYOUTS[9]

    def leave(self) -> None:
        """Raises FaultError, PageFaultError and UnbackedError while the old task runs."""
        new = self._new_tss()
        self._layout = layout = _LAYOUTS[new.type & ~_BUSY]
        words = list(layout.words.unpack(self._memory.read(self.sregs, new.base, layout.words.size)))
        self._save()
        nests = self._source in (Source.CALL, Source.GATE)
        if nests:
            self._memory.write(self.sregs, new.base, self.sregs.tr.selector.to_bytes(2, "little"))
        else:
            self._mark(self.sregs.tr.selector, busy=False)
        self._mark(self._selector, busy=True)
        self.left = True
        self.sregs.tr = new.segment(self._selector)
        self.sregs.tr.type |= _BUSY
        self.sregs.cr0 |= CR0_TS
        if layout.width == 4 and self.sregs.cr0 & CR0_PG:
            self.sregs.cr3 = words[_CR3]
        self.traps = layout.width == 4 and bool(words[_MAPS] & 1)
        self.regs.rip = words[layout.eip]
        self.regs.rflags = words[layout.eip + 1] & _FLAGS | RFLAGS_ONE | (RFLAGS_NT if nests else 0)
        for number, name in enumerate(_REGISTERS, start=layout.eip + 2):
            setattr(self.regs, name, words[number])
        first = layout.eip + 2 + len(_REGISTERS)
        self._selectors = [word & 0xFFFF for word in words[first : first + layout.segments]]
        self._selectors += [0] * (len(_SEGMENTS) - layout.segments)
        self._ldt = words[first + layout.segments] & 0xFFFF

    def enter(self) -> None:
        """Loads LDTR and the segments, and pushes the error code.

        Raises FaultError, PageFaultError and UnbackedError: then CS is the old one if its descriptor is to blame, and
        what comes later is not usable.
        """
        es, cs, ss, *others = self._selectors
        data = dict(zip(("es", "ds", "fs", "gs"), (es, *others), strict=True))
        virtual = bool(self.regs.rflags & RFLAGS_VM)
        for name, selector in data.items():
            setattr(self.sregs, name, virtual_8086_segment(selector) if virtual else null_segment(selector))
        if virtual:
            self.sregs.cs, self.sregs.ss = virtual_8086_segment(cs), virtual_8086_segment(ss)
        else:
            self.sregs.ss = null_segment(self.sregs.cs.selector & 3)
        self._load_ldt()
        if not virtual:
            self._load_code_and_stack(cs, ss)
            for name, selector in data.items():
                self._load_data(name, selector)
        if self._error_code is not None:
            self._push(self._error_code)
        if self.regs.rip > self.sregs.cs.limit:
            raise FaultError(_GP, 0)

    def _new_tss(self) -> Descriptor:
        """Of the new task, checked (26.4.2)."""
        vector = _GP if self._source in (Source.CALL, Source.JMP) else _TS
        new = self._find(self._selector, vector)
        busy = new.type & _BUSY if self._source is Source.IRET else not new.type & _BUSY
        if self._selector & _TABLE or new.s or new.type & ~_BUSY not in _TYPES or not busy:
            raise FaultError(vector, self._selector & ~3)
        if not new.present:
            raise FaultError(_NP, self._selector & ~3)
        if new.limit < _LAYOUTS[new.type & ~_BUSY].words.size - 1:
            raise FaultError(_TS, self._selector & ~3)
        return new

    def _save(self) -> None:
        """EIP to GS of the old task, to a TSS of the kind that it has."""
        layout = _LAYOUTS[self.sregs.tr.type & ~_BUSY]
        flags = self.regs.rflags & ~(RFLAGS_NT if self._source is Source.IRET else 0)
        words = [self._next_rip, flags, *(getattr(self.regs, name) for name in _REGISTERS)]
        words += [getattr(self.sregs, name).selector for name in _SEGMENTS[: layout.segments]]
        data = b"".join((word & (1 << 8 * layout.width) - 1).to_bytes(layout.width, "little") for word in words)
        self._memory.write(self.sregs, self.sregs.tr.base + layout.eip * layout.width, data)

    def _mark(self, selector: int, *, busy: bool) -> None:
        at = self.sregs.gdt.base + (selector & ~7) + 5
        (access,) = self._memory.read(self.sregs, at, 1)
        self._memory.write(self.sregs, at, bytes([access | _BUSY if busy else access & ~_BUSY]))

    def _place(self, selector: int, vector: int) -> int:
        """The linear address of a descriptor."""
        table = self.sregs.ldt if selector & _TABLE else self.sregs.gdt
        usable = not selector & _TABLE or not self.sregs.ldt.unusable
        if not selector & ~3 or not usable or selector | 7 > table.limit:
            raise FaultError(vector, selector & ~3)
        return table.base + (selector & ~7)

    def _find(self, selector: int, vector: int) -> Descriptor:
        return Descriptor.unpack(self._memory.read(self.sregs, self._place(selector, vector), 8))

    def _load_ldt(self) -> None:
        selector = self._ldt
        self.sregs.ldt = null_segment(selector)
        if not selector & ~3:
            return
        if selector & _TABLE:
            raise FaultError(_TS, selector & ~3)
        found = self._find(selector, _TS)
        if found.s or found.type != _LDT or not found.present:
            raise FaultError(_TS, selector & ~3)
        self.sregs.ldt = found.segment(selector)

    def _load_code_and_stack(self, code: int, stack: int) -> None:
        level = code & 3
        found = self._find(code, _TS)
        fits = found.dpl <= level if found.conforming else found.dpl == level
        if not found.code or not fits:
            raise FaultError(_TS, code & ~3)
        if not found.present:
            raise FaultError(_NP, code & ~3)
        self.sregs.cs = self._accessed(code, found)
        self.sregs.ss = null_segment(level)
        found = self._find(stack, _TS)
        if not found.writable or stack & 3 != level or found.dpl != level:
            raise FaultError(_TS, stack & ~3)
        if not found.present:
            raise FaultError(_SS, stack & ~3)
        self.sregs.ss = self._accessed(stack, found)

    def _load_data(self, name: str, selector: int) -> None:
        if not selector & ~3:
            return
        found = self._find(selector, _TS)
        reaches = found.conforming or found.dpl >= max(selector & 3, self.sregs.cs.selector & 3)
        if not found.readable or not reaches:
            raise FaultError(_TS, selector & ~3)
        if not found.present:
            raise FaultError(_NP, selector & ~3)
        setattr(self.sregs, name, self._accessed(selector, found))

    def _accessed(self, selector: int, found: Descriptor) -> Segment:
        if not found.type & 1:
            at = self._place(selector, _TS) + 5
            (access,) = self._memory.read(self.sregs, at, 1)
            self._memory.write(self.sregs, at, bytes([access | 1]))
        segment = found.segment(selector)
        segment.type |= 1
        return segment

    def _push(self, error_code: int) -> None:
        """As wide as the task's TSS."""
        width, mask = self._layout.width, 0xFFFFFFFF if self.sregs.ss.db else 0xFFFF
        top = self.regs.rsp - width & mask
        self._memory.write(self.sregs, self.sregs.ss.base + top & 0xFFFFFFFF, error_code.to_bytes(width, "little"))
        self.regs.rsp = self.regs.rsp & ~mask | top

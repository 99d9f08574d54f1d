"""Level n's processor and memory, as an emulator in L0 uses them."""

from __future__ import annotations

from typing import NamedTuple

from nestvmm.engines import Access, Engine, PageFaultError, UnbackedError
from nestvmm.hypervisors import GuestAccessError
from nestvmm.kvm import Regs, Segment, Sregs
from nestvmm.nesting.guest_view import PhysicalMemory, VcpuState
from nestvmm.x86.event import Outcome, Result

__all__ = ["Address", "Cpu", "GuestFaultError"]

_PAGE = 4096
_UD, _SS, _GP, _PF = 6, 12, 13, 14
_CR4_LA57 = 1 << 12
_EFER_LMA = 1 << 10
_RFLAGS_AC, _RFLAGS_RF = 1 << 18, 1 << 16
_U64 = (1 << 64) - 1


class GuestFaultError(Exception):
    """The guest takes an exception instead of going on; address: what CR2 gets, for #PF."""

    def __init__(self, vector: int, error_code: int | None = None, address: int | None = None) -> None:
        super().__init__(f"exception {vector}")
        self.vector = vector
        self.error_code = error_code
        self.address = address


class Address(NamedTuple):
    """An effective address: a segment's name, such as "ds", and the offset in it, cut to the address size."""

    segment: str
    offset: int


class Cpu:
    """What an emulator reads and changes; valid during one event."""

    def __init__(self, engine: Engine, state: VcpuState, memory: PhysicalMemory) -> None:
        self._engine = engine
        self._state = state
        self._memory = memory

    @property
    def level(self) -> int:
        """Whose software caused the event."""
        return int(self._engine.vcpu.level)

    @property
    def regs(self) -> Regs:
        """General registers: a copy."""
        return self._state.regs()

    @property
    def sregs(self) -> Sregs:
        """Segment and control registers: a copy."""
        return self._state.sregs()

    def msr(self, index: int) -> int | None:
        """The value of an MSR that the engine keeps; None: there is none."""
        return self._engine.get_msr(index)

    def complete(self) -> Result:
        """The processor does the instruction that KVM failed to emulate, and those behind it in one batch.

        Declined, with nothing done, when it cannot or lacks the instruction, or a level that declined changed them.
        """
        if self._state.changed:
            return Result.declined()
        result = self._engine.complete()
        lacks = result.outcome is Outcome.FAULTED and result.vector == _UD
        return Result.declined() if lacks else result

    def retire(self, regs: Regs, sregs: Sregs, length: int) -> None:
        """The instruction, `length` bytes long, is done and leaves these registers.

        RFLAGS.TF is not looked at: a guest that steps itself sees no trap behind this instruction.
        """
        mask = _U64 if code_bits(sregs) == 64 else 0xFFFFFFFF
        regs.rip = (regs.rip + length) & mask
        regs.rflags &= ~_RFLAGS_RF
        self._state.set_regs(regs)

    def fault(self, fault: GuestFaultError) -> Result:
        """The answer that makes the guest take the exception."""
        if fault.address is not None:
            sregs = self._state.sregs()
            sregs.cr2 = fault.address
            self._state.set_sregs(sregs)
        return Result.faulted(fault.vector, fault.error_code)

    def fetch(self, regs: Regs, sregs: Sregs, skip: int, size: int) -> bytes:
        """Up to `size` code bytes from `skip` behind RIP on: at least one, and none of the next page."""
        offset = regs.rip + skip
        linear = offset & _U64 if code_bits(sregs) == 64 else (sregs.cs.base + offset) & 0xFFFFFFFF
        physical = self._translate(regs, sregs, linear, Access.FETCH)
        return self._memory.read(physical, min(size, _PAGE - linear % _PAGE))

    def read(self, regs: Regs, sregs: Sregs, address: Address, size: int) -> int:
        """A little-endian number of the guest's memory.

        Raises GuestFaultError, and GuestAccessError where no memory is behind the address.
        """
        pieces = self._pieces(regs, sregs, address, size, Access.READ)
        data = b"".join(self._memory.read(physical, length) for physical, length in pieces)
        return int.from_bytes(data, "little")

    def write(self, regs: Regs, sregs: Sregs, address: Address, size: int, value: int) -> None:
        """Writes such a number; raises as `read` does, before the first byte is written."""
        pieces = self._pieces(regs, sregs, address, size, Access.WRITE)
        data = value.to_bytes(size, "little")
        for physical, length in pieces:
            self._memory.write(physical, data[:length])
            data = data[length:]

    def _pieces(self, regs: Regs, sregs: Sregs, address: Address, size: int, access: Access) -> list[tuple[int, int]]:
        """The physical addresses and lengths of an operand, which lies in one page or in two."""
        linear = _linear(sregs, address, size, access)
        first = min(size, _PAGE - linear % _PAGE)
        pieces = [(self._translate(regs, sregs, linear, access), first)]
        if first < size:
            mask = _U64 if code_bits(sregs) == 64 else 0xFFFFFFFF
            pieces.append((self._translate(regs, sregs, (linear + first) & mask, access), size - first))
        return pieces

    def _translate(self, regs: Regs, sregs: Sregs, linear: int, access: Access) -> int:
        try:
            return self._engine.paging.translate(
                sregs, linear, access, user=sregs.ss.dpl == 3, ac=bool(regs.rflags & _RFLAGS_AC)
            )
        except PageFaultError as fault:
            raise GuestFaultError(_PF, fault.error_code, fault.address) from None
        except UnbackedError as error:
            raise GuestAccessError(str(error)) from None


def code_bits(sregs: Sregs) -> int:
    """64, 32 or 16: what size of code level n is in."""
    if sregs.efer & _EFER_LMA and sregs.cs.l:
        return 64
    return 32 if sregs.cs.db else 16


def _linear(sregs: Sregs, address: Address, size: int, access: Access) -> int:
    """The linear address of an operand; raises GuestFaultError for what segmentation refuses."""
    fault = GuestFaultError(_SS if address.segment == "ss" else _GP, 0)
    segment: Segment = getattr(sregs, address.segment)
    if code_bits(sregs) == 64:
        base = segment.base if address.segment in ("fs", "gs") else 0
        linear = (base + address.offset) & _U64
        width = 57 if sregs.cr4 & _CR4_LA57 else 48
        # a canonical address has all its upper bits equal; the last byte must have one too
        if any(edge >> width - 1 not in (0, (1 << 65 - width) - 1) for edge in (linear, linear + size - 1 & _U64)):
            raise fault
        return linear
    last = address.offset + size - 1
    if segment.unusable or not _within(segment, address.offset, last) or not _permits(segment, access):
        raise fault
    return (segment.base + address.offset) & 0xFFFFFFFF


def _within(segment: Segment, first: int, last: int) -> bool:
    expand_down = segment.type & 0xC == 0x4
    if expand_down:
        return first > segment.limit and last <= (0xFFFFFFFF if segment.db else 0xFFFF)
    return last <= segment.limit


def _permits(segment: Segment, access: Access) -> bool:
    """Bit 3 of the type: code; bit 1: code that can be read, or data that can be written."""
    if access is Access.WRITE:
        return segment.type & 0xA == 0x2
    return segment.type & 0xA != 0x8

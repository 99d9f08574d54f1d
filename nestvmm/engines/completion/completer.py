"""Completes one vCPU's instructions: the answer to an emulation failure that no level claims."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from nestvmm._native import ffi, lib
from nestvmm.engines.guest_paging import physical_bits
from nestvmm.engines.native_slots import native_slots
from nestvmm.errors import HostError
from nestvmm.kvm import Cap, CpuidEntry, HostMemory, Vcpu
from nestvmm.x86.event import HANDLED, Outcome, Result

if TYPE_CHECKING:
    from nestvmm.engines.engine import MemorySlot

__all__ = ["BATCH", "Completer", "processor"]

#: The most instructions between two entries into KVM, where interrupts are taken: well under a millisecond.
BATCH: Final = 10_000

_XSAVE: Final = 4096
_CODE: Final = 1 << 20


class Completer:
    """Does in L0 what KVM's emulator cannot; a context manager.

    kicked:     a cffi `int *` that ends a batch when it is not 0
    cpuid:      what level n's CPUID reports
    claimed:    whether someone else wants an instruction with these bytes: a batch ends before it
    """

    def __init__(
        self,
        vcpu: Vcpu,
        kicked: Any,
        memory: HostMemory,
        slots: Sequence[MemorySlot],
        cpuid: Iterable[CpuidEntry],
        claimed: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        # imported here: only a KVM that fails to emulate makes a run wait for it
        from nestvmm.engines.completion.allowed import lacking  # noqa: PLC0415
        from nestvmm.engines.completion.translate import translate  # noqa: PLC0415

        self._translate = translate
        self._claimed = claimed
        self._lacks = lacking(processor)
        self._slots = native_slots(memory, slots)
        run = vcpu.kvm_run
        run.kvm_valid_regs = vcpu.check(Cap.SYNC_REGS)
        size = max(vcpu.check(Cap.XSAVE2), _XSAVE)
        self._c: Any = lib.nv_completion_new(
            vcpu.fd, run, kicked, self._slots, len(slots), physical_bits(cpuid), size, _CODE
        )
        if self._c == ffi.NULL:
            raise HostError(
                f"no executable memory to complete instructions that KVM fails to emulate: {os.strerror(ffi.errno)}"
            )
        self._c.limit = BATCH
        self._room = 0

    def close(self) -> None:
        """Gives the memory back; a second time does nothing."""
        if self._c != ffi.NULL:
            lib.nv_completion_free(self._c)
            self._c = ffi.NULL

    def __enter__(self) -> Completer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def limit(self) -> int:
        """The most instructions in a batch; BATCH unless set."""
        return int(self._c.limit)

    @limit.setter
    def limit(self, instructions: int) -> None:
        self._c.limit = instructions

    @property
    def total(self) -> int:
        """Instructions completed so far."""
        return int(self._c.total)

    def complete(self, fresh: bool) -> Result:
        """Does level n's next instruction, and those behind it that are L0's to do.

        fresh: nobody changed level n's state since KVM_RUN came back.
        Handled; faulted, when the instruction does; or declined, with the reason as its message.
        """
        c = self._c
        c.fresh = fresh
        status = lib.nv_completion_run(c)
        while status == lib.NV_COMPLETION_DECODE:
            self._install()
            status = lib.nv_completion_run(c)
        if status == lib.NV_COMPLETION_DONE:
            return HANDLED
        if status == lib.NV_COMPLETION_FAULT:
            return Result.faulted(c.vector, c.error if c.has_error else None)
        if status < 0:
            raise HostError(f"KVM refuses the state of a completed instruction: {os.strerror(-status)}")
        return Result(Outcome.DECLINED, message=self._why(status))

    def _why(self, status: int) -> str:
        if status == lib.NV_COMPLETION_UNBACKED:
            return f"it needs linear address {self._c.linear:#x}, which no memory of its level backs"
        if status == lib.NV_COMPLETION_STATE:
            return "L0 does not complete instructions in this mode (virtual 8086, protection keys, CET, CR0.NE off)"
        return "L0 does not complete that one"

    def _install(self) -> None:
        """Translates the instruction that C asks for and puts it into its place."""
        c = self._c
        data = bytes(ffi.buffer(c.bytes, c.length))
        operation = self._translate(data, c.regs.rip, c.mode, self._lacks)
        size = (len(operation.code) + 15) & ~15
        if self._room + size > _CODE:
            lib.nv_completion_clear(c)
            self._room = 0
        slot = lib.nv_completion_slot(c, c.linear)
        ffi.memmove(slot, bytes(ffi.sizeof(slot[0])), ffi.sizeof(slot[0]))
        length = operation.length
        padded = data[:length].ljust(16, b"\0")
        mask = (b"\xff" * length).ljust(16, b"\0")
        slot.linear = c.linear
        slot.bytes = [int.from_bytes(padded[:8], "little"), int.from_bytes(padded[8:], "little")]
        slot.mask = [int.from_bytes(mask[:8], "little"), int.from_bytes(mask[8:], "little")]
        slot.kind, slot.length, slot.mode = operation.kind, length, c.mode
        slot.claimed = self._claimed(data[:length])
        slot.base = slot.index = lib.NV_NO_REGISTER
        for name, value in operation.fields.items():
            setattr(slot, name, value)
        if operation.code:
            ffi.memmove(c.code + self._room, operation.code, len(operation.code))
            slot.code = c.code_first + self._room
            self._room += size


def processor(leaf: int) -> list[int]:
    """EAX, EBX, ECX and EDX of this processor's CPUID, first subleaf."""
    registers = ffi.new("uint32_t[4]")
    lib.nv_completion_cpuid(leaf, 0, registers)
    return list(registers)

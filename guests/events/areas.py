"""The hypervisor side of the events guest: one object answers one test area, as README.md describes the protocol."""

from __future__ import annotations

from collections.abc import Iterable

from nestvmm.hypervisors import (
    HANDLED,
    Direction,
    Event,
    ExitReason,
    HandlerClaim,
    Hypervisor,
    Result,
    on,
    on_debug,
    on_instruction,
)

PORTS, PORTS_STRIDE = 0x5000, 0x100
HOLE, HOLE_STRIDE = 0xD0000000, 0x1000
MSRS, MSRS_STRIDE = 0x4E560000, 0x40
ECHO, STREAM, FAULT = 0x30, 0x38, 0x3F
GP = 13


def answer(address: int, size: int) -> int:
    """What a register below ECHO reads."""
    return (0x0123456789ABCDEF ^ (address & 0x3F) * 0x0101010101010101) & ((1 << 8 * size) - 1)


class Areas(Hypervisor):
    """Answers the ports, the memory hole and the MSRs of test area `area` (0 to 3)."""

    def __init__(self, area: int) -> None:
        self._area = area
        self._echo = 0
        self._stream = 0

    def claims(self) -> Iterable[HandlerClaim]:
        """What the base class finds declared, and its area."""
        yield from super().claims()
        ports, hole, msrs = (
            PORTS + PORTS_STRIDE * self._area,
            HOLE + HOLE_STRIDE * self._area,
            MSRS + MSRS_STRIDE * self._area,
        )
        yield ExitReason.IO, ports, ports + PORTS_STRIDE - 1, None, self.access
        yield ExitReason.MMIO, hole, hole + HOLE_STRIDE - 1, None, self.access
        yield ExitReason.RDMSR, msrs, msrs + MSRS_STRIDE - 1, None, self.access
        yield ExitReason.WRMSR, msrs, msrs + MSRS_STRIDE - 1, None, self.access

    def access(self, event: Event) -> Result:
        """A read or a write of one of its registers."""
        register = event.qualifier & 0x3F
        if register == FAULT and event.reason in (ExitReason.RDMSR, ExitReason.WRMSR):
            return Result.faulted(GP, 0)
        if event.direction == Direction.WRITE:
            self._write(register, event)
            return HANDLED
        if register == STREAM:
            elements = [(self._stream + i) & ((1 << 8 * event.size) - 1) for i in range(event.count)]
            self._stream += event.count
            return Result.read_bytes(b"".join(element.to_bytes(event.size, "little") for element in elements))
        if register != ECHO:
            return Result.read(answer(event.qualifier, event.size))
        echo, self._echo = self._echo, 0
        return Result.read(echo)

    def _write(self, register: int, event: Event) -> None:
        if register == STREAM:
            self._stream = event.value
        # KVM may hand over a string access in parts, so the echo sums up all elements since it was last read
        for at in range(0, len(event.data), event.size):
            element = int.from_bytes(event.data[at : at + event.size], "little")
            self._echo = (31 * self._echo + element) & 0xFFFFFFFFFFFFFFFF


class Emulating(Areas):
    """Also emulates POPCNT RAX, RBX, where KVM fails to."""

    @on_instruction(b"\xf3\x0f\xb8\xc3")
    def popcnt(self, event: Event) -> Result:
        """AMD APM vol. 3, POPCNT: ZF is set if the source is zero, the other flags are cleared."""
        if not event.instruction.startswith(b"\xf3\x48\x0f\xb8\xc3"):
            return Result.declined()
        regs = self.guest.regs
        regs.rax = regs.rbx.bit_count()
        regs.rflags = regs.rflags & ~0x8D5 | (0x40 if regs.rbx == 0 else 0)
        self.guest.set_regs(regs)
        self.guest.skip(5)
        return HANDLED


class Resuming(Areas):
    """Also takes HLT from its guest, which goes on behind it."""

    @on(ExitReason.HLT)
    def halt(self, event: Event) -> Result:
        """HLT: KVM leaves RIP behind it."""
        return HANDLED


class Debugging(Areas):
    """Also takes INT3 from its guest, which goes on behind it."""

    @on_debug(3)
    def breakpoint(self, event: Event) -> Result:
        """INT3: KVM leaves RIP on it."""
        self.guest.skip(1)
        return HANDLED

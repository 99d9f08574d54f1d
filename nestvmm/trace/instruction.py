"""The instruction that an exit was for, found in level n's memory.

An engine that intercepts stops at the instruction and knows its bytes. What KVM serves to userspace directly it stops
at, or behind, and it does not tell which: reads before, stores behind, and ports and MSRs as the host's KVM has it. So
both places are looked at for an instruction that does what the exit says. Where both have one, as in a row of equal
instructions, it is where instructions of that kind were found when only one place had one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from iced_x86 import Decoder, Formatter, FormatterSyntax, Instruction, MemorySizeExt, Mnemonic, OpKind, RegisterExt

from nestvmm.engines import Engine
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason

if TYPE_CHECKING:
    from nestvmm.kvm import Sregs

__all__ = ["Found", "InstructionFinder", "Stopped"]

_MAX = 15
# Code in front of RIP that is swept for the instruction which ends there; longer sweeps fall into step more surely.
_SWEEP = 48
_EFER_LMA = 1 << 10
_CR0_PE = 1

_IN = {Mnemonic.IN, Mnemonic.INSB, Mnemonic.INSW, Mnemonic.INSD}
_OUT = {Mnemonic.OUT, Mnemonic.OUTSB, Mnemonic.OUTSW, Mnemonic.OUTSD}
_EXACT = {
    ExitReason.RDMSR: Mnemonic.RDMSR,
    ExitReason.WRMSR: Mnemonic.WRMSR,
    ExitReason.HLT: Mnemonic.HLT,
}
# Exits that no instruction makes.
_NONE = frozenset(
    {
        ExitReason.INTERRUPT,
        ExitReason.INTERRUPT_WINDOW,
        ExitReason.NMI,
        ExitReason.NMI_WINDOW,
        ExitReason.EOI,
        ExitReason.SMI,
        ExitReason.INIT,
        ExitReason.PREEMPTION_TIMER,
        ExitReason.SHUTDOWN,
    }
)


class Stopped(NamedTuple):
    """What an exit says of the instruction.

    rip:   level n's, as KVM has it
    code:  its bytes, where the engine knows them; RIP is at it then
    """

    reason: ExitReason
    direction: Direction
    size: int
    rip: int
    code: bytes


class Found(NamedTuple):
    """The instruction, in Intel's syntax; empty where there is none, or none that does what the exit says."""

    rip: int
    text: str


class InstructionFinder:
    """Finds the instructions of one engine's exits, while level n is stopped at them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._formatter = Formatter(FormatterSyntax.INTEL)
        self._behind: Counter[tuple[ExitReason, Direction]] = Counter()

    def find(self, stopped: Stopped) -> Found:
        """The instruction that level n stopped at or behind."""
        if not stopped.rip or stopped.reason in _NONE:
            return Found(stopped.rip, "")
        sregs = self._engine.sregs()
        bits = _bits(sregs)
        if stopped.code and stopped.reason is not ExitReason.HLT:
            return self._found(_decode(stopped.code, bits, stopped.rip), stopped.rip)
        return self._found(self._search(stopped, sregs, bits), stopped.rip)

    def _found(self, instruction: Instruction | None, rip: int) -> Found:
        if instruction is None:
            return Found(rip, "")
        return Found(instruction.ip, self._formatter.format(instruction))

    def _search(self, stopped: Stopped, sregs: Sregs, bits: int) -> Instruction | None:
        rip = stopped.rip
        at = _decode(self._fetch(sregs, bits, rip, _MAX), bits, rip)
        if at is not None and not _does(at, stopped):
            at = None
        behind = _ending_at(self._before(sregs, bits, rip), bits, rip, stopped)
        kind = stopped.reason, stopped.direction
        if at is None or behind is None:
            if at is not None or behind is not None:
                self._behind[kind] += 1 if at is None else -1
            return at or behind
        if not self._behind[kind]:
            # KVM's emulator has done a store when it asks for it
            return behind if stopped.reason is ExitReason.MMIO and stopped.direction is Direction.WRITE else at
        return behind if self._behind[kind] > 0 else at

    def _before(self, sregs: Sregs, bits: int, rip: int) -> bytes:
        """The code in front of RIP: `_SWEEP` bytes, or what its page has of them."""
        size = min(_SWEEP, rip)
        code = self._fetch(sregs, bits, rip - size, size)
        if len(code) == size:
            return code
        size = min(size, rip & 0xFFF)
        return self._fetch(sregs, bits, rip - size, size) if size else b""

    def _fetch(self, sregs: Sregs, bits: int, rip: int, size: int) -> bytes:
        linear = rip if bits == 64 else sregs.cs.base + rip & 0xFFFFFFFF
        user = bool(sregs.cr0 & _CR0_PE) and sregs.ss.dpl == 3
        return self._engine.paging.fetch(sregs, linear, size, user=user)


def _bits(sregs: Sregs) -> int:
    """16, 32 or 64: of the code segment."""
    if sregs.efer & _EFER_LMA and sregs.cs.l:
        return 64
    return 32 if sregs.cs.db else 16


def _decode(code: bytes, bits: int, rip: int) -> Instruction | None:
    instruction = Decoder(bits, code, ip=rip).decode()
    return None if instruction.is_invalid else instruction


def _ending_at(code: bytes, bits: int, rip: int, stopped: Stopped) -> Instruction | None:
    """The instruction that ends at RIP, as most sweeps through the code in front of it see it; None: none that fits."""
    votes: Counter[int] = Counter()
    fitting: dict[int, Instruction] = {}
    for start in range(len(code)):
        last = None
        for instruction in Decoder(bits, code[start:], ip=rip - len(code) + start):
            last = instruction
        if last is not None and not last.is_invalid and last.next_ip == rip and _does(last, stopped):
            votes[last.ip] += 1
            fitting[last.ip] = last
    return fitting[votes.most_common(1)[0][0]] if votes else None


def _does(instruction: Instruction, stopped: Stopped) -> bool:
    """Whether it can be what the exit is for."""
    reason = stopped.reason
    if reason is ExitReason.IO:
        wanted = _OUT if stopped.direction is Direction.WRITE else _IN
        return instruction.mnemonic in wanted and _port_size(instruction, stopped.direction) == stopped.size
    if reason is ExitReason.MMIO:
        return _touches_memory(instruction, stopped.size)
    return reason not in _EXACT or instruction.mnemonic == _EXACT[reason]


def _port_size(instruction: Instruction, direction: Direction) -> int:
    """Bytes that it moves: by its accumulator, or an element of its string."""
    number = 1 if direction is Direction.WRITE else 0
    if instruction.op_kind(number) == OpKind.REGISTER:
        return RegisterExt.size(instruction.op_register(number))
    return MemorySizeExt.size(instruction.memory_size)


def _touches_memory(instruction: Instruction, size: int) -> bool:
    """Whether it reads or writes so much memory, or more, of which KVM hands over a part."""
    memory = any(instruction.op_kind(number) >= OpKind.MEMORY_SEG_SI for number in range(instruction.op_count))
    return memory and MemorySizeExt.size(instruction.memory_size) >= size

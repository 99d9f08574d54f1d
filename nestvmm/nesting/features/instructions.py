"""Instructions that L0 emulates where KVM hands them over, one class each.

AMD APM vol. 3 and Intel SDM vol. 2 by the instruction's name.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import ClassVar

from nestvmm.hypervisors import GuestAccessError
from nestvmm.kvm import Regs, Sregs
from nestvmm.nesting.designation import Scope
from nestvmm.nesting.features.cpu import Address, Cpu, GuestFaultError, code_bits
from nestvmm.nesting.features.decode import Instruction, Memory, Register, TruncatedError, decode
from nestvmm.nesting.features.emulator import Emulator
from nestvmm.x86.event import HANDLED, Event, Result
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.instruction import key_range

__all__ = ["Crc32", "InstructionEmulator", "Movbe", "Popcnt", "Rdpid", "Rdrand"]

_UD = 6
_LENGTH_MAX = 15
_U64 = (1 << 64) - 1
_CF, _ZF = 1, 1 << 6
# CF, PF, AF, ZF, SF and OF
_STATUS = 0x8D5
_TSC_AUX = 0xC0000103
# CRC-32C with its bits reflected, as the instruction computes it
_CASTAGNOLI = 0x82F63B78


def _keys(*texts: str) -> tuple[Scope, ...]:
    """Emulation failures of instructions by the first bytes of their keys, as ranges `FIRST` or `FIRST-LAST`."""
    scopes = []
    for text in texts:
        first, _, last = text.partition("-")
        low, _ = key_range(bytes.fromhex(first))
        _, high = key_range(bytes.fromhex(last or first))
        scopes.append(Scope(ExitReason.EMULATION_FAILURE, low, high))
    return tuple(scopes)


class Operands:
    """Reads and writes an instruction's operands, in registers and in memory."""

    def __init__(self, cpu: Cpu, regs: Regs, sregs: Sregs, instruction: Instruction) -> None:
        self._cpu = cpu
        self.regs = regs
        self.sregs = sregs
        self._instruction = instruction

    def size(self, number: int) -> int:
        """Bytes of an operand."""
        return self._instruction.operands[number].size

    def load(self, number: int) -> int:
        """The value of an operand."""
        operand = self._instruction.operands[number]
        if isinstance(operand, Memory):
            return self._cpu.read(self.regs, self.sregs, self._address(operand), operand.size)
        value: int = getattr(self.regs, operand.name)
        return value >> operand.shift & (1 << 8 * operand.size) - 1

    def store(self, number: int, value: int) -> None:
        """Sets an operand; one of four bytes in a register clears the upper half."""
        operand = self._instruction.operands[number]
        if isinstance(operand, Memory):
            self._cpu.write(self.regs, self.sregs, self._address(operand), operand.size, value)
            return
        self._set(operand, value)

    def _set(self, register: Register, value: int) -> None:
        if register.size < 4:
            mask = ((1 << 8 * register.size) - 1) << register.shift
            value = getattr(self.regs, register.name) & ~mask | value << register.shift
        setattr(self.regs, register.name, value)

    def status(self, flags: int) -> None:
        """Sets the status flags; those not named are cleared."""
        self.regs.rflags = self.regs.rflags & ~_STATUS | flags

    def _address(self, operand: Memory) -> Address:
        offset = operand.displacement
        if operand.base == "rip":
            offset += self.regs.rip + self._instruction.length
        elif operand.base:
            offset += getattr(self.regs, operand.base)
        if operand.scaled:
            # [esi+edi] takes the low halves: the sum is cut below
            offset += getattr(self.regs, operand.scaled) * operand.scale
        return Address(operand.segment, offset & (1 << 8 * operand.address_size) - 1)


class InstructionEmulator(Emulator):
    """Fetches, decodes and retires; a subclass says what happens in between.

    An operand that no memory is behind, such as a device's register, is declined.
    """

    absent: ClassVar[Result] = Result.faulted(_UD)

    def handle(self, event: Event, cpu: Cpu) -> Result:
        """Executes the instruction at RIP, or gives the exception that it raises."""
        regs, sregs = cpu.regs, cpu.sregs
        try:
            instruction = self._fetch(event.instruction, cpu, regs, sregs)
            if instruction.mnemonic != self.feature:
                raise GuestFaultError(_UD)
            self.execute(cpu, Operands(cpu, regs, sregs, instruction))
        except GuestFaultError as fault:
            return cpu.fault(fault)
        except GuestAccessError:
            return Result.declined()
        cpu.retire(regs, sregs, instruction.length)
        return HANDLED

    @staticmethod
    def _fetch(code: bytes, cpu: Cpu, regs: Regs, sregs: Sregs) -> Instruction:
        """The instruction of these bytes, and of as many behind them as it needs.

        One of more than 15 bytes counts as undefined; a processor raises #GP.
        """
        bits = code_bits(sregs)
        while True:
            try:
                return decode(code, bits)
            except TruncatedError:
                code += cpu.fetch(regs, sregs, len(code), _LENGTH_MAX - len(code))

    @abstractmethod
    def execute(self, cpu: Cpu, operands: Operands) -> None:
        """Does it; operand 0 is the destination, 1 the source. Raises GuestFaultError."""


class Popcnt(InstructionEmulator):
    """Counts the ones."""

    feature: ClassVar[str] = "popcnt"
    scopes: ClassVar[tuple[Scope, ...]] = _keys("f30fb8")
    trials: ClassVar[tuple[bytes, ...]] = (b"\xf3\x0f\xb8\xc3",)

    def execute(self, cpu: Cpu, operands: Operands) -> None:
        """ZF: the source is zero."""
        source = operands.load(1)
        operands.store(0, source.bit_count())
        operands.status(0 if source else _ZF)


class Movbe(InstructionEmulator):
    """Moves between a register and memory with the bytes reversed."""

    feature: ClassVar[str] = "movbe"
    scopes: ClassVar[tuple[Scope, ...]] = _keys("0f38f0-0f38f1", "660f38f0-660f38f1")
    trials: ClassVar[tuple[bytes, ...]] = (b"\x0f\x38\xf0\x08", b"\x0f\x38\xf1\x08")

    def execute(self, cpu: Cpu, operands: Operands) -> None:
        """No flags change."""
        value = operands.load(1)
        operands.store(0, int.from_bytes(value.to_bytes(operands.size(1), "little"), "big"))


class Crc32(InstructionEmulator):
    """Adds an operand to a CRC-32C."""

    feature: ClassVar[str] = "crc32"
    scopes: ClassVar[tuple[Scope, ...]] = _keys("f20f38f0-f20f38f1")
    trials: ClassVar[tuple[bytes, ...]] = (b"\xf2\x0f\x38\xf1\xc3",)

    def execute(self, cpu: Cpu, operands: Operands) -> None:
        """The low half of the destination is the CRC, its upper half becomes zero; no flags change."""
        value = operands.load(1) ^ operands.load(0) & 0xFFFFFFFF
        for _ in range(8 * operands.size(1)):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        operands.store(0, value)


class Rdrand(InstructionEmulator):
    """Random numbers, from the host's kernel."""

    feature: ClassVar[str] = "rdrand"
    scopes: ClassVar[tuple[Scope, ...]] = _keys("0fc7f0-0fc7f7", "660fc7f0-660fc7f7")
    trials: ClassVar[tuple[bytes, ...]] = (b"\x0f\xc7\xf0",)

    def execute(self, cpu: Cpu, operands: Operands) -> None:
        """CF: the number is one; always."""
        operands.store(0, int.from_bytes(os.urandom(operands.size(0)), "little"))
        operands.status(_CF)


class Rdpid(InstructionEmulator):
    """Reads MSR TSC_AUX."""

    feature: ClassVar[str] = "rdpid"
    scopes: ClassVar[tuple[Scope, ...]] = _keys("f30fc7f8-f30fc7ff")
    trials: ClassVar[tuple[bytes, ...]] = (b"\xf3\x0f\xc7\xf8",)

    def execute(self, cpu: Cpu, operands: Operands) -> None:
        """No flags change; the upper half becomes zero."""
        operands.store(0, (cpu.msr(_TSC_AUX) or 0) & 0xFFFFFFFF)

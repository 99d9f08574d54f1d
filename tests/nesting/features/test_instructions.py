"""Each form of the emulated instructions against the same bytes on this machine's processor."""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iced_x86 import Code, Encoder, Instruction, MemoryOperand, Register, RegisterExt
from native_run import AREA, REGISTERS, SIZE, NativeRunner

from nestvmm.kvm import Regs, Segment, Sregs
from nestvmm.nesting.features.cpu import Address, GuestFaultError
from nestvmm.nesting.features.instructions import Crc32, InstructionEmulator, Movbe, Popcnt, Rdpid, Rdrand
from nestvmm.x86.event import Direction, Event, Outcome, Result
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.instruction import instruction_key

FLAGS = 0x8D5
LENGTH = SIZE - AREA
GENERAL = [getattr(Register, name.upper()) for name in REGISTERS]

FORMS = {
    Popcnt: ["POPCNT_R16_RM16", "POPCNT_R32_RM32", "POPCNT_R64_RM64"],
    Crc32: ["CRC32_R32_RM8", "CRC32_R64_RM8", "CRC32_R32_RM16", "CRC32_R32_RM32", "CRC32_R64_RM64"],
    Movbe: ["MOVBE_R16_M16", "MOVBE_R32_M32", "MOVBE_R64_M64", "MOVBE_M16_R16", "MOVBE_M32_R32", "MOVBE_M64_R64"],
}


def host_lacks(feature: str) -> bool:
    return feature not in Path("/proc/cpuinfo").read_text().split()


@functools.cache
def runner() -> NativeRunner:
    return NativeRunner()


class FakeCpu:
    """Registers, and the operands' area as a plain buffer at its address."""

    level = 1

    def __init__(self, regs: Regs, memory: bytes = b"", base: int = 0, aux: int = 0) -> None:
        self.regs = regs
        self.sregs = Sregs(cs=Segment(l=1), efer=1 << 10)
        self.memory = bytearray(memory)
        self._base = base
        self._aux = aux
        self.fetched = b""

    def msr(self, index: int) -> int:
        assert index == 0xC0000103
        return self._aux

    def read(self, _regs: Regs, _sregs: Sregs, address: Address, size: int) -> int:
        at = address.offset - self._base
        assert 0 <= at <= len(self.memory) - size
        return int.from_bytes(self.memory[at : at + size], "little")

    def write(self, _regs: Regs, _sregs: Sregs, address: Address, size: int, value: int) -> None:
        at = address.offset - self._base
        assert 0 <= at <= len(self.memory) - size
        self.memory[at : at + size] = value.to_bytes(size, "little")

    def fetch(self, _regs: Regs, _sregs: Sregs, skip: int, size: int) -> bytes:
        if not self.fetched:
            raise GuestFaultError(14, 0x10, 0x1000)
        piece, self.fetched = self.fetched[:size], self.fetched[size:]
        return piece

    def retire(self, regs: Regs, _sregs: Sregs, length: int) -> None:
        regs.rip += length
        self.regs = regs

    def fault(self, fault: GuestFaultError) -> Result:
        return Result.faulted(fault.vector, fault.error_code)


def emulate(kind: type[InstructionEmulator], code: bytes, cpu: FakeCpu) -> Result:
    qualifier = int.from_bytes(instruction_key(code)[:8].ljust(8, b"\0"), "big")
    event = Event(
        ExitReason.EMULATION_FAILURE,
        1,
        qualifier,
        direction=Direction.EXECUTE,
        instruction=code[:15].ljust(15, b"\x90"),
    )
    assert any(scope.covers(event.reason, qualifier, event.direction) for scope in kind.scopes), code.hex()
    cpu_: Any = cpu
    return kind(frozenset({1})).handle(event, cpu_)


def narrowed(register: int, size: int, high: bool) -> int:
    """The part of a 64-bit register that an operand of `size` bytes names."""
    name = REGISTERS[GENERAL.index(register)].upper()
    if size == 8:
        return register
    if name.startswith("R") and name[1:].isdigit():
        return int(getattr(Register, name + {1: "L", 2: "W", 4: "D"}[size]))
    if size == 1:
        short = name[1] + "H" if high and name in ("RAX", "RBX", "RCX", "RDX") else name[1:]
        return int(getattr(Register, short if len(short) == 2 and short[1] in "HL" else low_byte(name)))
    return int(getattr(Register, name[1:] if size == 2 else "E" + name[1:]))


def low_byte(name: str) -> str:
    return name[1] + "L" if name in ("RAX", "RBX", "RCX", "RDX") else name[1:] + "L"


EDGES = (0, 1, 1 << 63, (1 << 64) - 1)


@st.composite
def cases(draw: st.DrawFn, forms: list[str]) -> tuple[bytes, dict[str, int], int, bytes]:
    """An instruction's bytes, registers, flags and the area of operands."""
    # of one draw, which takes much less time than one for each register
    drawn = draw(st.binary(min_size=9 * len(REGISTERS), max_size=9 * len(REGISTERS)))
    registers = {
        name: EDGES[choice % 4] if choice & 4 else value
        for name, (choice, value) in zip(REGISTERS, struct.iter_unpack("<BQ", drawn), strict=True)
    }
    form = draw(st.sampled_from(forms))
    _, first, second = form.split("_")
    sizes = [int(operand.lstrip("RM")) // 8 for operand in (first, second)]
    store = first.startswith("M")
    in_memory = "M" in first or second.startswith("M") or draw(st.booleans())
    code = getattr(Code, form)
    value = draw(st.sampled_from(GENERAL))
    if not in_memory:
        source = draw(st.sampled_from(GENERAL))
        # AH and its like cannot be named beside a REX prefix
        low = GENERAL[:4]
        high = draw(st.booleans()) and sizes[1] == 1 and sizes[0] == 4 and value in GENERAL[:7] and source in low
        instruction = Instruction.create_reg_reg(
            code, narrowed(value, sizes[0], False), narrowed(source, sizes[1], high)
        )
    else:
        size = sizes[0] if store else sizes[1]
        target = runner().area + draw(st.integers(0, LENGTH - size) | st.integers(0x1000 - size, 0x1000))
        operand = memory_operand(draw, registers, target, value if store else 0)
        register = narrowed(value, sizes[1] if store else sizes[0], False)
        make = Instruction.create_mem_reg if store else Instruction.create_reg_mem
        instruction = make(code, operand, register) if store else make(code, register, operand)
    encoder = Encoder(64)
    encoder.encode(instruction, runner().at)
    return (
        encoder.take_buffer(),
        registers,
        draw(st.integers(0, FLAGS)) & FLAGS | 0x202,
        draw(st.binary(min_size=64, max_size=64)) * (LENGTH // 64),
    )


def memory_operand(draw: st.DrawFn, registers: dict[str, int], target: int, keep: int) -> MemoryOperand:
    """[base + index * scale + displacement] at `target`, with the base register set so; or RIP-relative."""
    displacement = draw(st.sampled_from([0, 0x10, -0x80, 0x12345, -0x7654321]))
    kind = draw(st.sampled_from(["base", "both", "rip", "short"]))
    if kind == "rip":
        return MemoryOperand(Register.RIP, displ=target, displ_size=8)
    others = [register for register in GENERAL if register != keep]
    base = draw(st.sampled_from(others))
    base_name = REGISTERS[GENERAL.index(base)]
    size = 8 if displacement not in (0, 0x10, -0x80) else 1 if displacement else 0
    if kind == "short":
        # 67h: the upper half does not count
        registers[base_name] = (target - displacement) & 0xFFFFFFFF | 0xDEAD << 48
        return MemoryOperand(narrowed(base, 4, False), displ=displacement, displ_size=min(size, 4))
    if kind == "base":
        registers[base_name] = (target - displacement) & (1 << 64) - 1
        return MemoryOperand(base, displ=displacement, displ_size=size)
    index = draw(st.sampled_from([register for register in others if register != base]))
    scale = draw(st.sampled_from([1, 2, 4, 8]))
    offset = registers[REGISTERS[GENERAL.index(index)]] * scale + displacement
    registers[base_name] = (target - offset) & (1 << 64) - 1
    return MemoryOperand(base, index, scale, displacement, size)


def compare(kind: type[InstructionEmulator], case: tuple[bytes, dict[str, int], int, bytes]) -> None:
    code, registers, flags, memory = case
    machine = runner()
    machine.memory[AREA:SIZE] = memory
    after, flags_after = machine.run(code, registers, flags)
    cpu = FakeCpu(Regs(rip=machine.at, rflags=flags, **registers), memory, machine.area)
    assert emulate(kind, code, cpu).outcome is Outcome.HANDLED
    assert {name: getattr(cpu.regs, name) for name in REGISTERS} == after, code.hex()
    assert cpu.regs.rflags & FLAGS == flags_after & FLAGS
    assert bytes(cpu.memory) == machine.memory[AREA:SIZE]
    assert cpu.regs.rip == machine.at + len(code)


@pytest.mark.skipif(host_lacks("popcnt"), reason="this processor has no POPCNT")
@settings(max_examples=1500)
@given(cases(FORMS[Popcnt]))
def test_popcnt_is_what_the_processor_does(case: tuple[bytes, dict[str, int], int, bytes]) -> None:
    compare(Popcnt, case)


@pytest.mark.skipif(host_lacks("sse4_2"), reason="this processor has no CRC32")
@settings(max_examples=2500)
@given(cases(FORMS[Crc32]))
def test_crc32_is_what_the_processor_does(case: tuple[bytes, dict[str, int], int, bytes]) -> None:
    compare(Crc32, case)


@pytest.mark.skipif(host_lacks("movbe"), reason="this processor has no MOVBE")
@settings(max_examples=1500)
@given(cases(FORMS[Movbe]))
def test_movbe_is_what_the_processor_does(case: tuple[bytes, dict[str, int], int, bytes]) -> None:
    compare(Movbe, case)


@pytest.mark.skipif(host_lacks("rdpid"), reason="this processor has no RDPID")
def test_rdpid_is_what_the_processor_does() -> None:
    code = b"\xf3\x41\x0f\xc7\xfa"  # rdpid %r10
    registers = dict.fromkeys(REGISTERS, 0xDEADBEEFDEADBEEF)
    after, flags = runner().run(code, registers, 0x202 | FLAGS)
    cpu = FakeCpu(Regs(rflags=0x202 | FLAGS, **registers), aux=after["r10"])
    assert emulate(Rdpid, code, cpu).outcome is Outcome.HANDLED
    assert {name: getattr(cpu.regs, name) for name in REGISTERS} == after
    assert cpu.regs.rflags & FLAGS == flags & FLAGS


@pytest.mark.parametrize(
    ("code", "kept"),
    [("660fc7f0", 0xFFFFFFFFFFFF0000), ("0fc7f0", 0), ("480fc7f0", 0)],
)
def test_rdrand_sets_its_register_and_carry(code: str, kept: int) -> None:
    numbers = set()
    for _ in range(32):
        cpu = FakeCpu(Regs(rax=0xDEADBEEFDEADBEEF, rflags=0x202 | FLAGS))
        assert emulate(Rdrand, bytes.fromhex(code), cpu).outcome is Outcome.HANDLED
        assert cpu.regs.rax & kept == 0xDEADBEEFDEADBEEF & kept
        assert cpu.regs.rflags == 0x203
        assert cpu.regs.rax >> {4: 32, 3: 32}.get(len(code) // 2, 64) == 0 or kept or code.startswith("48")
        numbers.add(cpu.regs.rax)
    assert len(numbers) > 28


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Movbe, "0f38f0c3"),  # both operands registers
        (Popcnt, "c5f30fb8c3"),
    ],
)
def test_what_is_no_form_of_it_is_undefined(kind: type[InstructionEmulator], code: str) -> None:
    cpu: Any = FakeCpu(Regs())
    event = Event(ExitReason.EMULATION_FAILURE, 1, instruction=bytes.fromhex(code))
    assert kind(frozenset({1})).handle(event, cpu) == Result.faulted(6)


def test_bytes_that_the_engine_does_not_know_are_fetched() -> None:
    code = bytes.fromhex("f3480fb884cb88776655")
    cpu: Any = FakeCpu(Regs(rbx=0x100, rcx=2), (0x0F0F).to_bytes(8, "little"), 0x55667788 + 0x100 + 16)
    cpu.fetched = code[3:]
    event = Event(ExitReason.EMULATION_FAILURE, 1, instruction=code[:3])
    assert Popcnt(frozenset({1})).handle(event, cpu).outcome is Outcome.HANDLED
    assert (cpu.regs.rax, cpu.regs.rip) == (8, len(code))


def test_a_fetch_may_fault() -> None:
    cpu: Any = FakeCpu(Regs())
    event = Event(ExitReason.EMULATION_FAILURE, 1, instruction=b"\xf3\x48\x0f")
    assert Popcnt(frozenset({1})).handle(event, cpu) == Result.faulted(14, 0x10)


def test_more_than_fifteen_bytes_are_refused() -> None:
    cpu: Any = FakeCpu(Regs())
    event = Event(ExitReason.EMULATION_FAILURE, 1, instruction=b"\x66" * 12 + b"\xf3\x0f\xb8")
    assert Popcnt(frozenset({1})).handle(event, cpu) == Result.faulted(6)


def test_all_general_registers_have_their_names() -> None:
    assert [RegisterExt.number(register) for register in GENERAL] == [0, 1, 2, 3, 5, 6, 7, *range(8, 16)]

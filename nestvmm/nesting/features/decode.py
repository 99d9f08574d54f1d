"""Instructions taken apart by iced-x86 into what emulation needs. The library is loaded with the first instruction."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from iced_x86 import Instruction as _Decoded

__all__ = ["REGISTERS", "Instruction", "Memory", "Register", "TruncatedError", "decode"]

#: The general registers in the order of their numbers.
REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)


class Register(NamedTuple):
    """`size` bytes of a general register from bit `shift` on (8 for AH, CH, DH and BH)."""

    name: str
    size: int
    shift: int = 0


class Memory(NamedTuple):
    """An operand in memory: segment:[base + scaled * scale + displacement], cut to `address_size` bytes.

    base, scaled: register names; "rip" is the address of the next instruction, "" nothing
    """

    segment: str
    base: str
    scaled: str
    scale: int
    displacement: int
    address_size: int
    size: int


class Instruction(NamedTuple):
    """mnemonic: iced's, such as `popcnt`; "" for bytes that are no instruction. length: bytes."""

    mnemonic: str
    length: int
    operands: tuple[Register | Memory, ...]


class TruncatedError(Exception):
    """The bytes end within the instruction."""


@cache
def _names() -> dict[int, str]:
    """iced's mnemonic numbers."""
    from iced_x86 import Mnemonic  # noqa: PLC0415 - takes longer to load than a guest takes to start

    wanted = ("POPCNT", "MOVBE", "CRC32", "RDRAND", "RDPID")
    return {getattr(Mnemonic, name): name.lower() for name in wanted}


@lru_cache(4096)
def decode(code: bytes, bits: int) -> Instruction:
    """The first instruction of `code`, in code of 16, 32 or 64 bits; raises TruncatedError."""
    from iced_x86 import Decoder, DecoderError, OpKind  # noqa: PLC0415 - see above

    decoder = Decoder(bits, code)
    instruction = decoder.decode()
    if instruction.is_invalid:
        if decoder.last_error == DecoderError.NO_MORE_BYTES:
            raise TruncatedError
        return Instruction("", len(code), ())
    operands: list[Register | Memory] = []
    for number in range(instruction.op_count):
        kind = instruction.op_kind(number)
        if kind == OpKind.REGISTER:
            operands.append(_register(instruction.op_register(number)))
        elif kind == OpKind.MEMORY:
            operands.append(_memory(instruction))
        else:
            return Instruction("", instruction.len, ())
    name = "" if instruction.has_lock_prefix else _names().get(instruction.mnemonic, "")
    return Instruction(name, instruction.len, tuple(operands))


def _register(number: Any) -> Register:
    from iced_x86 import Register as Names  # noqa: PLC0415 - see above
    from iced_x86 import RegisterExt  # noqa: PLC0415 - see above

    name = REGISTERS[RegisterExt.number(RegisterExt.full_register(number))]
    return Register(name, RegisterExt.size(number), 8 if Names.AH <= number <= Names.BH else 0)


def _memory(instruction: _Decoded) -> Memory:
    from iced_x86 import MemorySizeExt, RegisterExt  # noqa: PLC0415 - see above
    from iced_x86 import Register as Names  # noqa: PLC0415 - see above

    base, index = instruction.memory_base, instruction.memory_index
    relative = {Names.RIP: 8, Names.EIP: 4}.get(base)
    sizes = [RegisterExt.size(one) for one in (base, index) if one != Names.NONE]
    segments = {Names.ES: "es", Names.CS: "cs", Names.SS: "ss", Names.DS: "ds", Names.FS: "fs", Names.GS: "gs"}
    displacement = instruction.memory_displacement
    if relative:
        # decoded at address 0, iced has added the length to it
        displacement -= instruction.len
    return Memory(
        segments[instruction.memory_segment],
        "rip" if relative else "" if base == Names.NONE else _register(base).name,
        "" if index == Names.NONE else _register(index).name,
        instruction.memory_index_scale,
        displacement,
        relative or (sizes[0] if sizes else instruction.memory_displ_size),
        MemorySizeExt.size(instruction.memory_size),
    )

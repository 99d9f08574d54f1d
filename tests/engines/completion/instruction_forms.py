"""Every form of instruction that L0 completes: found by trying all opcodes, never listed by hand."""

from __future__ import annotations

import functools
from typing import NamedTuple

from iced_x86 import Code, Decoder, Instruction, Mnemonic, OpKind

from nestvmm._native import lib
from nestvmm.engines.completion.allowed import lacking
from nestvmm.engines.completion.completer import processor
from nestvmm.engines.completion.translate import translate

_RANDOM = {Mnemonic.RDRAND, Mnemonic.RDSEED}


class Form(NamedTuple):
    """prefix and opcode bytes; which ModRM.reg values make it (a group, else 0 to 7); whether it takes memory."""

    name: str
    head: bytes
    regs: tuple[int, ...]
    memory: bool
    tail: int
    vector: bool
    has_modrm: bool
    unit: int


# What is a prefix or an escape rather than an opcode.
_PREFIXES = {0x0F, 0x26, 0x2E, 0x36, 0x3E, *range(0x40, 0x50), 0x62, *range(0x64, 0x68), 0xC4, 0xC5, 0xF0, 0xF2, 0xF3}
_MAPS = {b"": _PREFIXES, b"\x0f": {0x38, 0x3A}, b"\x0f\x38": set(), b"\x0f\x3a": set()}


def _heads() -> list[bytes]:
    heads = []
    for prefix in (b"", b"\x66", b"\xf3", b"\xf2"):
        for rex in (b"", b"\x48"):
            for escape, others in _MAPS.items():
                heads += [prefix + rex + escape + bytes([opcode]) for opcode in range(256) if opcode not in others]
    for pp in range(4):
        for number in (1, 2, 3):
            for wide in (0, 1):
                for long in (0, 1):
                    vex = bytes([0xC4, 0xE0 | number, wide << 7 | 0x2 << 3 | long << 2 | pp])  # vvvv: register 13
                    heads += [vex + bytes([opcode]) for opcode in range(256)]
    return heads


@functools.cache
def forms() -> tuple[Form, ...]:
    """All of them, each once."""
    lacks = lacking(processor)
    found: dict[tuple[int, bool, str], Form] = {}
    for head in _heads():
        for reg in range(8):
            for memory in (False, True):
                modrm = (reg << 3 | 6) if memory else (0xC0 | reg << 3 | 1)  # [rsi], or register 1
                data = head + bytes([modrm]) + bytes(10)
                _try(found, head, reg, memory, data[:15], lacks)
    return tuple(found.values())


def _try(
    found: dict[tuple[int, bool, str], Form], head: bytes, reg: int, memory: bool, data: bytes, lacks: frozenset[str]
) -> None:
    instruction = Decoder(64, data, ip=0).decode()
    if instruction.is_invalid or instruction.code == Code.INVALID or instruction.mnemonic in _RANDOM:
        return
    tail = instruction.len - len(head)
    if tail < 0 or (memory and not _has_memory(instruction)):
        return
    name = f"{Instruction.op_code(instruction).instruction_string} {'m' if memory else 'r'}"
    key = instruction.code, memory, name
    if key in found:
        form = found[key]
        if head == form.head and reg not in form.regs:
            found[key] = form._replace(regs=(*form.regs, reg))
        return
    operation = translate(data, 0, 64, lacks)
    if operation.kind != lib.NV_OPERATION_NATIVE:
        return
    unit = operation.fields.get("unit", 0)
    vex = head[0] == 0xC4
    found[key] = Form(name, head, (reg,), memory, max(tail - 1, 0), vex, tail > 0, unit)


def _has_memory(instruction: Instruction) -> bool:
    return any(instruction.op_kind(operand) == OpKind.MEMORY for operand in range(instruction.op_count))

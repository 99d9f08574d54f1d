"""What an instruction is, whatever prefixes it is written with.

`native/instruction.c` does the same in C (compared by tests/x86/test_instruction.py).
"""

from __future__ import annotations

__all__ = ["instruction_key", "key_range"]

_REPEAT = frozenset((0xF2, 0xF3))
_OPERAND = 0x66
# segment overrides, address size and REX
_LEFT_OUT = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x67, *range(0x40, 0x50)))


def instruction_key(code: bytes) -> bytes:
    """The mandatory prefix (the last of F3 and F2, else 66 when there is one) and the bytes from the opcode on.

    Segment, address-size and REX prefixes are left out, so that all forms of an instruction have one key: POPCNT is
    `f3 0f b8` with any operand. LOCK stays: it makes most instructions undefined.
    """
    mandatory = b""
    for at, byte in enumerate(code):
        if byte in _REPEAT:
            mandatory = bytes((byte,))
        elif byte == _OPERAND:
            mandatory = mandatory or b"\x66"
        elif byte not in _LEFT_OUT:
            return mandatory + code[at:]
    return mandatory


def key_range(prefix: bytes) -> tuple[int, int]:
    """The first and the last event qualifier of instructions that begin with these bytes (see `instruction_key`).

    Raises ValueError for none or more than 8 bytes, and for prefixes that no key holds.
    """
    if not 1 <= len(prefix) <= 8:
        raise ValueError(f"an instruction prefix has 1 to 8 bytes, not {len(prefix)}")
    key = instruction_key(prefix)
    if not key:
        raise ValueError(f"{prefix.hex(' ')}: only prefixes, which do not tell an instruction")
    return int.from_bytes(key.ljust(8, b"\0"), "big"), int.from_bytes(key.ljust(8, b"\xff"), "big")

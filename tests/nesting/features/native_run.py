"""Runs one instruction on this machine's processor, with chosen registers, flags and memory."""

from __future__ import annotations

import ctypes
import mmap
import struct

REGISTERS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_NUMBERS = (0, 1, 2, 3, 5, 6, 7, *range(8, 16))
_MAP_32BIT = 0x40
_STATE, AREA, SIZE = 0x1000, 0x2000, 0x4000


class NativeRunner:
    """A buffer below 4 GiB: code, the state to load and store, and an area for operands from AREA to SIZE.

    An instruction may use all registers but RSP.
    """

    def __init__(self) -> None:
        self.memory = mmap.mmap(
            -1,
            SIZE,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT,
            prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
        )
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.area = self.base + AREA
        self._call = ctypes.CFUNCTYPE(None)(self.base)
        # where the instruction itself lies: the code before it has always the same length
        self.at = self.base + len(self._before())

    def _move(self, at: int, number: int, place: int, *, load: bool) -> bytes:
        """MOV between a register and state word `place`, RIP-relative."""
        displacement = _STATE + 8 * place - (at + 7)
        opcode = 0x8B if load else 0x89
        return bytes((0x48 | number >> 3 << 2, opcode, (number & 7) << 3 | 5)) + struct.pack("<i", displacement)

    def _before(self) -> bytes:
        code = bytearray(b"\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57")  # push rbx, rbp, r12 to r15
        code += b"\xff\x35" + struct.pack("<i", _STATE + 8 * 15 - (len(code) + 6)) + b"\x9d"  # push flags; popf
        for place, number in enumerate(_NUMBERS):
            code += self._move(len(code), number, place, load=True)
        return bytes(code)

    def run(self, instruction: bytes, registers: dict[str, int], flags: int) -> tuple[dict[str, int], int]:
        """Registers and flags after the instruction; `memory` is as it leaves it."""
        code = bytearray(self._before() + instruction)
        for place, number in enumerate(_NUMBERS):
            code += self._move(len(code), number, place, load=False)
        code += b"\x9c\x8f\x05" + struct.pack("<i", _STATE + 8 * 15 - (len(code) + 7))  # pushf; pop flags
        code += b"\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"
        self.memory[: len(code)] = bytes(code)
        values = [registers[name] for name in REGISTERS]
        self.memory[_STATE : _STATE + 128] = struct.pack("<16Q", *values, flags)
        self._call()
        *after, flags_after = struct.unpack("<16Q", self.memory[_STATE : _STATE + 128])
        return dict(zip(REGISTERS, after, strict=True)), flags_after

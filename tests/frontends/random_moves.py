"""Code for nested_cases.py: random plain instructions between those of SVM, which L0 may do for the processor."""

from __future__ import annotations

import random

import svm_code as svm
from guest_code import RESULTS, done, store
from svm_code import BLOCK, enable, image, make_block

__all__ = ["KEPT", "random_moves"]

CLUSTERS, SEED = 60, 15
#: Words that they keep: the registers behind each cluster, then memory.
REGISTERS, WORDS = 16, 512
KEPT = CLUSTERS * REGISTERS + WORDS

SCRATCH = 0x170000
# Registers by their numbers. The pointers, and the block's address, stay as they are.
RAX, RSP, RBP, RSI, RDI, R12, R13, R14, R15 = 0, 4, 5, 6, 7, 12, 13, 14, 15
POINTERS = {RBP: SCRATCH + 0x800, RSI: SCRATCH + 0xF80, RDI: SCRATCH + 0x400, R13: SCRATCH + 0x1000, R14: BLOCK + 0x500}
FREE = [number for number in range(16) if number not in (*POINTERS, RSP, R15)]


def immediate(number: int, value: int) -> bytes:
    """Register = value."""
    return bytes([0x48 | number >> 3, 0xB8 | number & 7]) + value.to_bytes(8, "little")


def move(opcode: int, register: int, other: int, mod: int, displacement: bytes = b"") -> bytes:
    """MOV of 64 bits, by its opcode."""
    rex = 0x48 | register >> 3 << 2 | other >> 3
    return bytes([rex, opcode, mod << 6 | (register & 7) << 3 | other & 7]) + displacement


def plain(chance: random.Random) -> bytes:
    """An instruction."""
    register, base = chance.choice(FREE), chance.choice(list(POINTERS))
    kind = chance.randrange(12)
    if kind > 5:
        return reach(chance, register, base, store_too=kind == 6)
    others = (
        b"\x90",
        b"\xeb\x02\x0f\x0b",  # over UD2
        (b"\x41" if register > 7 else b"") + bytes([0x58 | register & 7]),
        move(0x89, register, chance.choice(FREE), 3),
    )
    return others[kind] if kind < len(others) else move(0x8B, register, chance.choice([*FREE, *POINTERS, RSP]), 3)


def reach(chance: random.Random, register: int, base: int, *, store_too: bool) -> bytes:
    """A load; or a store, of which there are few: while VMSAVE or VMLOAD is still to happen L0 does none."""
    opcode = 0x89 if store_too and base != R14 else 0x8B
    if chance.randrange(2):
        return move(opcode, register, base, 1, chance.randrange(-128, 128).to_bytes(1, "little", signed=True))
    # up to the words that VMSAVE stores, and over the end of a page
    return move(opcode, register, base, 2, chance.randrange(-0x180, 0x180).to_bytes(4, "little", signed=True))


def cluster(chance: random.Random, number: int) -> bytes:
    """VMLOAD to VMRUN, its exit to VMSAVE, that to VMLOAD; then the registers are kept."""
    values = (
        {one: chance.getrandbits(64) for one in FREE}
        | POINTERS
        | {RSP: SCRATCH + 8 * chance.randrange(0x40), R15: BLOCK}
    )
    code = b"".join(immediate(one, value) for one, value in values.items())
    for instruction in (svm.vmload(), svm.vmrun(), svm.vmsave(), svm.vmload()):
        code += move(0x89, R15, RAX, 3) + instruction[-3:]
        code += b"".join(plain(chance) for _ in range(chance.randrange(12)))
    for one in range(REGISTERS):  # to an address without a base
        at = RESULTS + 8 * (REGISTERS * number + one)
        code += move(0x89, one, 4, 0, b"\x25" + at.to_bytes(4, "little"))
    return code


def random_moves() -> bytes:
    """A hypervisor; the same each time."""
    chance = random.Random(SEED)
    code = enable() + make_block()
    for at in range(SCRATCH, SCRATCH + 0x2000, 0x108):
        code += store(at, chance.getrandbits(64))
    for number in range(CLUSTERS):
        code += cluster(chance, number)
    kept = RESULTS + 8 * CLUSTERS * REGISTERS
    for word in range(WORDS):
        code += move(0x8B, RAX, 4, 0, b"\x25" + (SCRATCH + 0x380 + 8 * word).to_bytes(4, "little"))
        code += move(0x89, RAX, 4, 0, b"\x25" + (kept + 8 * word).to_bytes(4, "little"))
    return image(code + done(), svm.VMMCALL_CODE)

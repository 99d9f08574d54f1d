"""A hypervisor in machine code that runs random control blocks, one after the other, each until its first exit.

Its image holds a template of a block and records of what differs from it. The guest may use the memory from GUEST to
WINDOW_END, by nested tables or by others that lead to nothing of the hypervisor's.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import svm_code as svm
from guest_code import MEMORY, RESULTS, done, out, pic, store, with_handlers

__all__ = ["COUNTS", "INVALID", "MEMORY_SIZE", "NPF", "changed", "image"]

CODE = 0x100000
STATE = 0x133000  # the next record, and how many are left
GUEST_TABLES = 0x148000
GUEST_GDT = 0x14B000
GUEST_TSS = 0x14C000
WINDOW_END = 0x170000
LIMITED, SELF, HOLES, RANDOM = 0x170000, 0x174000, 0x175000, 0x176000  # nested tables
TABLES_END = 0x177000
TEMPLATE = MEMORY
RECORDS = TEMPLATE + 0x1000
MEMORY_SIZE = 8 << 20
HOLE = 0x3FF00000
PATTERN = 0xA5

#: Results: how many blocks ended by each exit code.
COUNTS = 0x400
INVALID, NPF = 0x3FE, 0x3FF

_SAVE_AREA, _BLOCK_END = 0x400, 0x670
_LTR = 1 << 13  # loads what is none, in the lab
_FORCED_FIRST = 1 << 0 | _LTR | svm.IOIO | svm.MSR | svm.SHUTDOWN
_V_INTR_MASKING = 1 << 24
_FIRST, _SECOND = (1 << 32) - 1, (1 << 14) - 1  # all that they have
_VALUES = (0, 1, 7, 0x80, 0xFFFF, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1, HOLE, 1 << 40, 1 << 51, svm.BLOCK, STATE)
_ROOTS = (LIMITED, LIMITED, LIMITED, SELF, HOLES, RANDOM, HOLE, svm.BLOCK, TEMPLATE, 0xFFFFFFF000, 1 << 40)

# What the guest executes, in random order, by lines of the opcode map. No writes of DR7: VMRUN changes the kinds of its
# breakpoints behind QEMU's back, which then removes one as if it were of the other kind, and dies of that
# (cpu_breakpoint_remove_by_ref).
_INSTRUCTIONS = tuple(
    bytes.fromhex(text)
    for line in (
        ("0fa2", "f4", "0f01d9", "e6f4", "e480", "0f32", "0f30", "0f31", "f390", "90", "c3", "ff20", "ebfe", "48ab"),
        ("0f22c0", "0f22d8", "0f22e0", "0f20d8", "0f21f0", "0f06", "0f0117", "0f011f", "0f013f", "0f0107"),
        ("0f01d1", "0f01f9", "0f08", "0f09", "0f33", "488b07", "488907"),
        ("cd80", "cc", "0f0b", "48cf", "9c", "9d", "fb", "fa"),
        ("0f01d8", "0f01da", "0f01db", "0f01dc", "0f01dd", "0f01de", "0f01df"),
    )
    for text in line
)

# Copies the template to the block, applies a record, runs the block and counts its exit; until no record is left. A
# tick that waits is taken before VMRUN, so that the block does not end by it.
_LOOP = bytes.fromhex(
    "48be" + TEMPLATE.to_bytes(8, "little").hex() + "bf00001300 b900020000 f348a5"
    "4c8b242500301300 498b0c24 4983c408"
    "498b1c24 498b442408 48898300001300 4983c410 e2ea"
    "4c89242500301300 fb b800001300 0f01d8 0f01dc 90 90 fa fc"
    "488b042570001300 483dff030000 7611 483d00040000 0f94c0 0fb6c0 05fe030000"
    "48ff04c500001200 48ff0c2508301300 0f8574ffffff"
)
_END_OF_INTERRUPT = b"\x50\xb0\x20\xe6\x20\x58\x48\xcf"
# Ends the few blocks that nothing else does: every 20 ms, in which the others come to an exit on a slow machine, too.
_TICK = 23864
_TIMER = out(0x43, 0x34) + out(0x40, _TICK & 0xFF) + out(0x40, _TICK >> 8)


def image(seed: int, count: int, *, wild: bool = False) -> bytes:
    """For CODE. wild: blocks need not use nested paging, so that the guest may do anything to the hypervisor, too."""
    rng = random.Random(seed)
    # the lab's processor is no more when a task state segment is needed and there is none
    code = (
        svm.enable() + store(svm.BLOCK + svm.TR, 0x8B << 16 | 0xFFFF << 32) + store(svm.BLOCK + svm.TR + 8, GUEST_TSS)
    )
    code += svm.vmload() + store(STATE, RECORDS) + store(STATE + 8, count) + pic(0xFE) + _TIMER + _LOOP + done(5)
    whole = bytearray(with_handlers(code, {32: _END_OF_INTERRUPT}).ljust(RECORDS - CODE, bytes([PATTERN])))

    def put(address: int, data: bytes) -> None:
        whole[address - CODE : address - CODE + len(data)] = data

    template = _template()
    put(RESULTS, bytes(8 * COUNTS))
    put(svm.BLOCK, bytes(0x10000))
    put(svm.IOPM, b"\xff" * 0x3000)
    put(svm.MSRPM, b"\xff" * 0x2000)
    put(svm.GUEST, bytes(WINDOW_END - svm.GUEST))
    guest, starts = _guest_code(rng)
    put(svm.GUEST, guest)
    put(svm.GUEST_IDT, svm.guest_handlers())
    for address, data in _tables(rng):
        put(address, data)
    put(TEMPLATE, bytes(template))
    return bytes(whole) + b"".join(_record(template, _mutated(rng, template, starts, wild)) for _ in range(count))


def changed(before: bytes, after: bytes) -> list[int]:
    """Pages that are no longer as in the image, of those that neither the hypervisor nor its guest may write."""
    mutable = (
        (RESULTS, RESULTS + 8 * COUNTS),
        (svm.BLOCK, svm.BLOCK + 0x1000),
        (STATE, STATE + 0x1000),
        (svm.GUEST, TABLES_END),
    )
    pages = range(CODE, CODE + len(before), 0x1000)
    return [
        page
        for page in pages
        if not any(first <= page < end for first, end in mutable)
        and before[page - CODE : page - CODE + 0x1000] != after[page - CODE : page - CODE + 0x1000][: len(before)]
    ]


def _template() -> bytearray:
    block = bytearray(0x1000)
    segment = struct.pack("<HHIQ", 0x18, 0xC93, 0xFFFFFFFF, 0)
    for offset in (svm.ES, svm.SS, svm.DS):
        block[offset : offset + 16] = segment
    block[svm.CS : svm.CS + 16] = struct.pack("<HHIQ", 0x10, 0xA9B, 0xFFFFFFFF, 0)
    block[svm.GDTR : svm.GDTR + 16] = struct.pack("<QQ", 0x1F << 32, GUEST_GDT)
    block[svm.IDTR : svm.IDTR + 16] = struct.pack("<QQ", 0xFFF << 32, svm.GUEST_IDT)
    fields = {
        svm.FIRST_VECTOR & ~7: (svm.CPUID | _FORCED_FIRST) << 32,
        svm.SECOND_VECTOR: svm.VMRUN | svm.VMMCALL,
        svm.IOPM_BASE: svm.IOPM,
        svm.MSRPM_BASE: svm.MSRPM,
        svm.ASID: 1,
        svm.VIRTUAL_INTERRUPT: _V_INTR_MASKING,
        svm.EXIT_CODE: 0x3FD,
        svm.NESTED: 1,
        svm.NESTED_CR3: LIMITED,
        svm.EFER_FIELD: 0x1D00,
        svm.CR4: 0x20,
        svm.CR3: GUEST_TABLES,
        svm.CR0: 0x80000031,
        svm.DR7: 0x400,
        svm.DR6: 0xFFFF0FF0,
        svm.RFLAGS: 2,
        svm.RIP: svm.GUEST,
        svm.RSP: svm.GUEST_STACK,
        svm.PAT: 0x0007040600070406,
    }
    for offset, value in fields.items():
        struct.pack_into("<Q", block, offset, value)
    return block


def _guest_code(rng: random.Random) -> tuple[bytes, list[int]]:
    """Instructions and bytes that may be none; and where each of the instructions starts."""
    code, starts = b"", []
    while len(code) < 0x4000:
        if rng.randrange(4):
            starts.append(len(code))
            code += rng.choice(_INSTRUCTIONS)
        else:
            code += rng.randbytes(3)
    return code[:0x4000], starts[:-1]


def _tables(rng: random.Random) -> Iterator[tuple[int, bytes]]:
    """Page tables of the guest's, and nested ones."""
    pages = [struct.pack("<512Q", *(at << 12 | 7 if svm.GUEST <= at << 12 < WINDOW_END else 0 for at in range(512)))]
    yield GUEST_TABLES, struct.pack("<Q", GUEST_TABLES + 0x1007)
    yield GUEST_TABLES + 0x1000, struct.pack("<Q", GUEST_TABLES + 0x2007)
    yield GUEST_TABLES + 0x2000, struct.pack("<512Q", *(at << 21 | 0x87 for at in range(512)))
    yield GUEST_GDT, struct.pack("<4Q", 0, 0, 0xAF9B000000FFFF, 0xCF93000000FFFF)
    for number in range(3):
        yield LIMITED + 0x1000 * number, struct.pack("<Q", LIMITED + 0x1000 * (number + 1) | 7).ljust(0x1000, b"\0")
    yield LIMITED + 0x3000, pages[0]
    yield SELF, struct.pack("<Q", SELF | 7) * 512
    yield HOLES, struct.pack("<Q", HOLE | 7) * 512
    yield RANDOM, rng.randbytes(0x1000)


def _mutated(rng: random.Random, template: bytearray, starts: list[int], wild: bool) -> bytearray:
    block = bytearray(template)
    if not rng.randrange(20):
        block[:0x100] = rng.randbytes(0x100)
        block[_SAVE_AREA:_BLOCK_END] = rng.randbytes(_BLOCK_END - _SAVE_AREA)
    struct.pack_into("<Q", block, svm.RIP, svm.GUEST + rng.choice((rng.choice(starts), rng.randrange(0x4000))))
    if rng.randrange(2):
        _force(block, svm.FIRST_VECTOR, rng.choice((_FIRST, rng.getrandbits(32))))
        _force(block, svm.SECOND_VECTOR, rng.choice((_SECOND, rng.getrandbits(14))))
    struct.pack_into("<I", block, svm.EXCEPTIONS, rng.choice((0, 0, 0xFFFFFFFF, rng.getrandbits(32))))
    if not rng.randrange(3):
        kind, vector = rng.randrange(8), rng.randrange(256) if rng.randrange(2) else rng.randrange(32)
        event = 1 << 31 | kind << 8 | vector | rng.getrandbits(1) << 11 | rng.getrandbits(32) << 32
        struct.pack_into("<Q", block, svm.INJECTION, event)
    if not rng.randrange(3):
        struct.pack_into("<Q", block, svm.NESTED_CR3, rng.choice(_ROOTS))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        offset = 8 * rng.choice((rng.randrange(0x20), rng.randrange(_SAVE_AREA // 8, _BLOCK_END // 8)))
        old = struct.unpack_from("<Q", block, offset)[0]
        value = rng.choice((rng.choice(_VALUES), rng.getrandbits(64), old ^ 1 << rng.randrange(64)))
        struct.pack_into("<Q", block, offset, value)
    _force(block, svm.FIRST_VECTOR, _FORCED_FIRST)
    _force(block, svm.VIRTUAL_INTERRUPT, _V_INTR_MASKING)
    if not wild:
        _force(block, svm.NESTED, 1)
        for offset, value in ((svm.IOPM_BASE, svm.IOPM), (svm.MSRPM_BASE, svm.MSRPM)):
            struct.pack_into("<Q", block, offset, rng.choice((*[value] * 12, HOLE, 1 << 52)))
    elif rng.randrange(2):
        struct.pack_into("<Q", block, svm.NESTED, 0)
    struct.pack_into("<Q", block, svm.EXIT_CODE, 0x3FC)
    return block


def _force(block: bytearray, offset: int, bits: int) -> None:
    struct.pack_into("<I", block, offset, struct.unpack_from("<I", block, offset)[0] | bits)


def _record(template: bytearray, block: bytearray) -> bytes:
    words = [at for at in range(0, 0x1000, 8) if template[at : at + 8] != block[at : at + 8]]
    patches = b"".join(struct.pack("<Q", at) + block[at : at + 8] for at in words)
    return struct.pack("<Q", len(words)) + patches

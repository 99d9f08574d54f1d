"""Guests that raise exceptions, at CPL 0 and 3, and what their handlers find: for every engine with a switcher."""

from __future__ import annotations

import struct

from guest_code import (
    CODE,
    CODE_SELECTOR,
    IDT,
    IRETQ,
    NOP,
    RESULTS,
    UD2,
    done,
    keep,
    rax,
    rcx,
    with_handlers,
)
from reason_cases import run, watch

GDT, TSS, STACK, USER = 0x140000, 0x141000, 0x150000, 0x160000
NEXT = len(b"\x0f\x01\x1c\x25") + 4  # bytes of with_handlers' LIDT, before its code
FAR = 0x8000000000  # not mapped
ERROR_CODES = (8, 10, 11, 12, 13, 14, 17)

# Of selectors 0x10 on: 64-bit code, data, user data, user code, a TSS, data that is not present; the same TSS, of which
# no stack is within the limit; 32-bit code, 16-bit code at 0x40000, another TSS.
DESCRIPTORS = (
    0x00AF9B000000FFFF,
    0x00CF93000000FFFF,
    0x00CFF3000000FFFF,
    0x00AFFB000000FFFF,
    0x0000890000000067 | TSS << 16,
    0,
    0x00CF13000000FFFF,
    0x0000890000000003 | TSS << 16,
    0,
    0x00CF9B000000FFFF,
    0x00009B040000FFFF,
    0x0000891400000067 | 0x7000 << 16,
)
DATA_ABSENT, SHORT_TSS, CODE_32 = 0x40, 0x48, 0x58
TABLES = {
    GDT: struct.pack("<14Q", 0, 0, *DESCRIPTORS),
    GDT + 0x100: struct.pack("<HQ", 8 * 14 - 1, GDT),
    TSS: bytes(4) + struct.pack("<Q", STACK) + bytes(0x5C),
}
LGDT = b"\x0f\x01\x14\x25" + struct.pack("<I", GDT + 0x100)
LTR = b"\x66\xb8\x30\x00\x0f\x00\xd8"
LJMP = b"\xea"  # of 32-bit code


def user(code: bytes) -> bytes:
    """Runs code at CPL 3, with IOPL 3; the first 2 MiB become the user's."""
    opened = b"".join(b"\x80\x0c\x25" + struct.pack("<IB", table, 4) for table in (0x2000, 0x3000, 0x4000))
    frame = b"".join(rax(word) + b"\x50" for word in (0x23, USER, 0x3002, 0x2B))
    enter = LGDT + LTR + opened + frame
    # lea 4(%rip), %rax: behind PUSH and IRETQ
    return enter + b"\x48\x8d\x05\x03\0\0\0\x50" + IRETQ + code


def narrow(before: bytes, code: bytes) -> tuple[bytes, bytes]:
    """Runs code in a 32-bit code segment of long mode, then goes on behind it in 64-bit mode."""
    enter = LGDT + rax(CODE_32) + b"\x50\x48\x8d\x05\x03\0\0\0\x50\x48\xcb" + before  # lea 3(%rip); push; lretq
    after = CODE + NEXT + 2 + len(enter + code) + len(LJMP) + 6
    return enter, code + LJMP + struct.pack("<IH", after, CODE_SELECTOR)


# Vector, instructions before, and the one that raises it.
EXCEPTIONS: dict[str, tuple[int, bytes, bytes]] = {
    "de": (0, b"\x31\xc9", b"\xf7\xf1"),
    "bp": (3, b"", b"\xcc"),
    "of": (4, *narrow(b"\xb8\xff\xff\xff\x7f\x83\xc0\x01", b"\xce" + NOP)),
    "br": (5, *narrow(b"\xb8\x05\0\0\0\xbf" + struct.pack("<I", RESULTS), b"\x62\x07")),
    "ud": (6, b"", UD2),
    "nm": (7, b"\x0f\x20\xc0\x48\x83\xc8\x08\x0f\x22\xc0", b"\xd9\xd0"),
    "df": (8, rcx(0xFFFFFFFF), b"\x0f\x32"),
    # the gate of 0x55 asks for a stack of the TSS, which has none
    "ts": (
        10,
        LGDT + b"\x66\xb8\x48\x00\x0f\x00\xd8" + b"\xc6\x04\x25" + struct.pack("<IB", IDT + 16 * 0x55 + 4, 1),
        b"\xcd\x55",
    ),
    "np": (11, LGDT + rax(DATA_ABSENT), b"\x8e\xd8"),
    "ss": (12, LGDT + rax(DATA_ABSENT), b"\x8e\xd0"),
    "gp": (13, rax(0xFFF8), b"\x8e\xd8"),
    "pf": (14, b"\x48\xbf" + struct.pack("<Q", FAR), b"\x88\x07"),
    "mf": (
        16,
        b"\xdb\xe3" + b"\x68\x7b\x03\0\0" + b"\xd9\x2c\x24" + b"\xd9\xe8\xd9\xee\xde\xf9",
        b"\x9b",
    ),
    "ac": (
        17,
        b"\x0f\x20\xc0\x0d\0\0\x04\0\x0f\x22\xc0"
        + user(b"\x9c\x81\x0c\x24\0\0\x04\0\x9d" + b"\x48\xbf" + struct.pack("<Q", USER + 1)),
        b"\x8b\x07",
    ),
    # 0 / 0 with an invalid operation unmasked: DIVPS RESULTS, XMM2
    "xm": (
        19,
        b"\x0f\x20\xe0\x66\x0d\x00\x06\x0f\x22\xe0"
        + b"\x68\x00\x1f\0\0\x0f\xae\x14\x24\x0f\x57\xd2"
        + rax(RESULTS - 0x58),
        b"\x0f\x5e\x50\x58",  # behind its first two bytes: PUSH, POP
    ),
    "pf user": (14, user(b"\x48\xbf" + struct.pack("<Q", FAR)), b"\x8b\x07"),
    "ud user": (6, user(b""), UD2),
}


def handler(vector: int) -> bytes:
    """Keeps the error code, or 0, and CR2, and the RIP that was pushed; then the run ends with the vector."""
    error = b"\x58" if vector in ERROR_CODES else b"\x31\xc0"  # pop %rax; xor %eax, %eax
    stack = b"\x48\xbc" + struct.pack("<Q", STACK)
    pushed = b"\x48\x8b\x04\x24"  # mov (%rsp), %rax
    return error + keep(0) + pushed + keep(1) + b"\x0f\x20\xd0" + keep(2) + stack + done(vector)


def guest(name: str) -> bytes:
    vector, before, code = EXCEPTIONS[name]
    return with_handlers(
        b"\x31\xed" + before + code + keep(3) + done(0x55), {vector: handler(vector), 0x55: handler(0x56)}
    )


def exception_at(name: str) -> int:
    """Where the instruction is, from CODE on."""
    return NEXT + 2 + len(EXCEPTIONS[name][1])


def exception(engine: str, name: str, does: str) -> dict[str, object]:
    """An exception seen by level 1."""
    vector = EXCEPTIONS[name][0]
    return run(engine, guest(name), [watch("exception", does, first=vector, last=vector), "logger"], 4, TABLES)


CASES = {
    f"exception {name} {does}": (lambda engine, name=name, does=does: exception(engine, name, does))
    for name in EXCEPTIONS
    for does in ("decline", "skip")
}

"""Guests of a few bytes, as raw binaries for `--address`: entered in long mode at their first byte."""

from __future__ import annotations

from pathlib import Path

#: Where they are loaded; the options that do it.
ADDRESS = 0x100000
RAW = ("--address", ADDRESS, "-m", 4)

LOOP = bytes.fromhex("eb fe")  # jmp to itself
HALT = bytes.fromhex("fa f4")  # cli; hlt
UNDEFINED = bytes.fromhex("0f 0b")  # ud2; without an IDT, a triple fault


def out(port: int, value: int) -> bytes:
    """OUT of 4 bytes: mov edx, port; mov eax, value; out dx, eax."""
    return b"\xba" + port.to_bytes(4, "little") + b"\xb8" + value.to_bytes(4, "little") + b"\xef"


def out_byte(port: int, value: int) -> bytes:
    """OUT of one byte."""
    return out(port, value)[:-1] + b"\xee"


def say(text: bytes) -> bytes:
    """To the serial port."""
    return b"".join(out_byte(0x3F8, byte) for byte in text)


def leave(status: int) -> bytes:
    """To the debug exit."""
    return out(0xF4, status)


#: Writes to the serial port what it reads there, until a byte 4 (Ctrl-D), with which it leaves 0.
ECHO = bytes.fromhex(
    "ba fd 03 00 00"  # 0: mov edx, 0x3fd (line status)
    "ec"  # 5: in al, dx
    "a8 01"  # 6: test al, 1 (data ready)
    "74 f6"  # 8: jz 0
    "ba f8 03 00 00"  # 10: mov edx, 0x3f8
    "ec"  # 15: in al, dx
    "3c 04"  # 16: cmp al, 4
    "74 03"  # 18: je 23
    "ee"  # 20: out dx, al
    "eb e9"  # 21: jmp 0
) + leave(0)

#: Says "xxxx..." without end.
CHATTER = bytes.fromhex("ba f8 03 00 00 b0 78 ee eb fd")  # mov edx, 0x3f8; mov al, 'x'; 7: out dx, al; jmp 7


def image(folder: Path, code: bytes) -> tuple[object, ...]:
    """The arguments of `nestvmm` that run this code, from a file made in `folder`."""
    path = folder / "code.bin"
    path.write_bytes(code)
    return "run", path, *RAW

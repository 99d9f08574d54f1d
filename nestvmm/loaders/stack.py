"""Images one behind the other in one file: a hypervisor image, its guest, that one's guest, to any height.

Each image finds the next one on the first page behind itself, and loads it into its own guest's memory; the file of the
next image again has the rest behind it. So no image knows how many there are. guests/minivisor is such a hypervisor:

    8 bytes     "nvmmnext"
    8 bytes     size of the next image
    4080 bytes  its command line, ending in NUL
    ...         the next image, an ELF64 executable
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from nestvmm.errors import ImageError
from nestvmm.loaders.command_line import command_line
from nestvmm.loaders.elf import elf_class, read_elf
from nestvmm.loaders.room import PAGE, align_up

__all__ = ["Stacked", "stack"]

_HEAD: Final = struct.Struct("<8sQ4080s")
_MAGIC: Final = b"nvmmnext"
_COMMAND_MAX: Final = 4079

# ELF-64 Object File Format 1.5, figures 2 and 6; all is loaded, and may be written and run.
_HEADER: Final = struct.Struct("<16s2HI3QI6H")
_PROGRAM_HEADER: Final = struct.Struct("<2I6Q")
_IDENTIFICATION: Final = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
_EXECUTABLE: Final = 2
_X86_64: Final = 62
_LOAD: Final = 1
_RIGHTS: Final = 7


class Stacked(NamedTuple):
    """An image above the first one: the bytes of an ELF64 executable, its command line, and its name in messages."""

    image: bytes
    append: str = ""
    name: str = ""


def stack(first: bytes, above: Sequence[Stacked], name: str = "image 1 of the stack") -> bytes:
    """The ELF64 executable `first` with the images `above` it behind it, the lowest of them first.

    It is loaded as any image; the first one's command line is whatever the loader then gives it. ImageError for an
    image that is no ELF64 executable, or a command line that is too long; it begins with the image's name, the first
    one's being `name`, and with nothing where that is empty.
    """
    carried = None
    for number, one in reversed(list(enumerate(above, start=2))):
        who = one.name or f"image {number} of the stack"
        text = command_line(one.append)
        if len(text) > _COMMAND_MAX + 1:
            raise ImageError(f"{who}: its command line has {len(text) - 1} bytes, at most {_COMMAND_MAX} fit")
        whole = _carrying(one.image, carried, who)
        carried = _HEAD.pack(_MAGIC, len(whole), text) + whole
    return _carrying(first, carried, name)


def _carrying(image: bytes, load: bytes | None, who: str) -> bytes:
    """An executable with its segments as they are, and one more on the first page behind them."""
    try:
        if elf_class(image) != 64:
            raise ImageError("not an ELF64 executable")
        executable = read_elf(image)
    except ImageError as error:
        raise ImageError(f"{who}: {error}" if who else str(error)) from None
    parts = [(part.physical, bytes(part.data), part.memory_size) for part in executable.loads]
    if load is not None:
        parts.append((align_up(executable.end, PAGE), load, len(load)))
    offset = _HEADER.size + _PROGRAM_HEADER.size * len(parts)
    headers = []
    for address, data, size in parts:
        headers.append(_PROGRAM_HEADER.pack(_LOAD, _RIGHTS, offset, address, address, len(data), size, 1))
        offset += len(data)
    header = _HEADER.pack(
        _IDENTIFICATION,
        _EXECUTABLE,
        _X86_64,
        1,
        executable.entry,
        _HEADER.size,
        0,
        0,
        _HEADER.size,
        _PROGRAM_HEADER.size,
        len(parts),
        0,
        0,
        0,
    )
    return b"".join([header, *headers, *(data for _, data, _ in parts)])

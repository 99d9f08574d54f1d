"""ELF executables of x86, both classes: what to put where, from the file and program headers alone.

Only these two fixed-size headers go through pyelftools, each as a slice checked before, so a malformed file can make it
neither loop nor read on. It is imported when the first ELF image comes: that takes 20 ms.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nestvmm.errors import ImageError
from nestvmm.loaders.room import Room

__all__ = ["MAGIC", "Executable", "elf_class", "read_elf"]

MAGIC: Final = b"\x7fELF"

_PROGRAM_HEADERS_MAX: Final = 256
_FIX_TYPE: Final = {
    "ET_DYN": "position-independent: link it with -static -no-pie",
    "ET_REL": "an object file: link it",
    "ET_CORE": "a core dump",
}


class _Class(NamedTuple):
    bits: int
    header_size: int
    program_header_size: int
    machine: str


_CLASSES: Final = {1: _Class(32, 52, 32, "EM_386"), 2: _Class(64, 64, 56, "EM_X86_64")}


class _Load(NamedTuple):
    """One PT_LOAD program header: where it goes, in physical addresses, and where it thinks that it is."""

    physical: int
    virtual: int
    data: memoryview
    memory_size: int


class Executable(NamedTuple):
    """A checked ELF executable.

    entry:  physical address of the first instruction, inside the bytes of a segment
    """

    entry: int
    loads: list[_Load]

    @property
    def end(self) -> int:
        """The first physical address behind all segments."""
        return max(load.physical + load.memory_size for load in self.loads)

    def put(self, room: Room) -> None:
        """Put all segments at their physical addresses (p_paddr)."""
        for number, load in enumerate(self.loads):
            room.put(load.physical, load.data, f"ELF segment {number}", load.memory_size)


def elf_class(data: bytes) -> int:
    """32 or 64 for an ELF file, 0 for any other; ImageError for an ELF file of no known class."""
    if not data.startswith(MAGIC):
        return 0
    if len(data) < 16 or data[4] not in _CLASSES:
        raise ImageError("ELF header: neither 32-bit nor 64-bit; the file is damaged")
    return _CLASSES[data[4]].bits


def read_elf(data: bytes) -> Executable:
    """Check an ELF file that `elf_class` knows: a static x86 executable, i386 if 32-bit, x86-64 if 64-bit."""
    from elftools.construct import ConstructError  # noqa: PLC0415
    from elftools.elf.structs import ELFStructs  # noqa: PLC0415

    kind = _CLASSES[data[4]]
    if data[5] != 1:
        raise ImageError("ELF header: not little-endian, so not for x86")
    structs = ELFStructs(little_endian=True, elfclass=kind.bits)
    structs.create_basic_structs()
    structs.create_advanced_structs("ET_EXEC", kind.machine, "ELFOSABI_SYSV")
    try:
        header = structs.Elf_Ehdr.parse(bytes(_slice(data, 0, kind.header_size, "ELF header")))
        _check_header(header, kind)
        count, size = header["e_phnum"], kind.program_header_size
        table = bytes(_slice(data, header["e_phoff"], count * size, "ELF program headers"))
        headers = [structs.Elf_Phdr.parse(table[at : at + size]) for at in range(0, count * size, size)]
    except ConstructError as error:
        raise ImageError(f"ELF header: {error}") from None
    if any(header["p_type"] == "PT_INTERP" for header in headers):
        raise ImageError("ELF: a dynamically linked program, not a kernel: link it with -static -no-pie")
    loads = [
        _load(data, number, ph) for number, ph in enumerate(headers) if ph["p_type"] == "PT_LOAD" and ph["p_memsz"]
    ]
    return Executable(_entry(header["e_entry"], loads), loads)


def _check_header(header: dict[str, object], kind: _Class) -> None:
    if header["e_machine"] != kind.machine:
        raise ImageError(f"ELF header: a {kind.bits}-bit file for {header['e_machine']}, not for {kind.machine}")
    if header["e_type"] != "ET_EXEC":
        raise ImageError(
            f"ELF header: {_FIX_TYPE.get(str(header['e_type']), 'not an executable')} ({header['e_type']})"
        )
    count = header["e_phnum"]
    if not isinstance(count, int) or not 0 < count <= _PROGRAM_HEADERS_MAX:
        raise ImageError(f"ELF header: {count} program headers; 1 to {_PROGRAM_HEADERS_MAX} can be loaded")
    if header["e_phentsize"] != kind.program_header_size:
        raise ImageError(
            f"ELF header: program headers of {header['e_phentsize']} bytes instead of {kind.program_header_size}"
        )


def _load(data: bytes, number: int, header: dict[str, int]) -> _Load:
    what = f"ELF segment {number}"
    in_file, in_memory = header["p_filesz"], header["p_memsz"]
    if in_file > in_memory:
        raise ImageError(f"{what}: {in_file:#x} bytes in the file, but {in_memory:#x} in memory")
    piece = _slice(data, header["p_offset"], in_file, what)
    return _Load(header["p_paddr"], header["p_vaddr"], piece, in_memory)


def _entry(entry: int, loads: list[_Load]) -> int:
    """The entry point as a physical address: linkers give it as either."""
    for load in loads:
        if 0 <= entry - load.physical < len(load.data):
            return entry
    for load in loads:
        if 0 <= entry - load.virtual < len(load.data):
            return entry - load.virtual + load.physical
    raise ImageError(f"ELF header: the entry point {entry:#x} lies in no segment")


def _slice(data: bytes, offset: int, size: int, what: str) -> memoryview:
    """data[offset : offset + size], which must be whole."""
    if offset > len(data) or size > len(data) - offset:
        raise ImageError(
            f"{what}: bytes {offset:#x}..{offset + size - 1:#x} lie behind the file's end, {len(data):#x}; truncated?"
        )
    return memoryview(data)[offset : offset + size]

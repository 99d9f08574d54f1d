"""Guest images: from a file to bytes at addresses and a first state. No KVM is needed.

    image           what comes out: Image, MemoryRange; Entry is that of nestvmm.x86.state
    bare            ELF64 executables and raw binaries
    multiboot       Multiboot 1: 32-bit ELF executables, or by address fields
    bzimage         Linux kernels
    elf             the program headers of both ELF classes
    stack           a tower of ELF64 executables in one file
    long_mode       page tables, GDT and stack of a 64-bit start
    pc_memory       the e820 map
    command_line    text to bytes
    room            what lies where in guest RAM
    file            reading files

Everything but `file` and `load` is a pure function of bytes. A file that is malformed or does not fit is an ImageError.
"""

from __future__ import annotations

from collections.abc import Sequence

from nestvmm.errors import ImageError
from nestvmm.loaders.bare import load_elf64, load_raw
from nestvmm.loaders.bzimage import is_bzimage, load_bzimage
from nestvmm.loaders.command_line import command_line
from nestvmm.loaders.elf import elf_class
from nestvmm.loaders.file import read_file, regular_file
from nestvmm.loaders.image import Data, Image, Machine, MemoryRange
from nestvmm.loaders.multiboot import Module, find_header, load_multiboot
from nestvmm.loaders.stack import Stacked, stack
from nestvmm.x86.state import Entry

__all__ = ["Data", "Entry", "Image", "Machine", "MemoryRange", "Stacked", "load", "read_file", "regular_file"]


def load(
    path: str,
    memory: Sequence[MemoryRange],
    *,
    append: str = "",
    initrd: str | None = None,
    address: int | None = None,
    above: Sequence[Stacked] = (),
) -> Image:
    """Load the image file at `path` for a level with this RAM; ImageError if it is malformed or does not fit.

    append:     the kernel's command line; Multiboot puts the path before it, as QEMU does
    initrd:     bzImage: a file; Multiboot: modules as in "file arguments,file2", a comma in a name doubled; the other
                formats do not place it (they can read it from fw_cfg)
    address:    load the file, whatever it holds, as a raw binary at this guest-physical address
    above:      what this image, a hypervisor, loads as its guest, and what that does, the lowest first: ELF64
                executables, behind this one as stack.py says; a Multiboot kernel gets them as its last module

    The format is told by the content. bzImage and Multiboot start as their specifications say. ELF64 executables (even
    with a Multiboot header, unless that has address fields) and raw binaries start in 64-bit mode at CPL 0, interrupts
    off and IDT empty, the first 4 GiB mapped to themselves, with

        RDI     address of the command line, which ends in NUL
        RSI     bytes of RAM
        RSP     the top of a 16 KiB stack, a multiple of 16
        CS, SS  0x10, 0x18 of a flat GDT: 64-bit code and data; DS, ES, FS and GS as SS

    Page tables, GDT, stack and command line lie in the first free RAM from 0x1000 on.
    """
    ram_size = sum(ram.size for ram in memory)
    data = read_file(path, ram_size)
    try:
        return _load(path, data, memory, ram_size, append=append, initrd=initrd, address=address, above=above)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def _load(
    path: str,
    data: bytes,
    memory: Sequence[MemoryRange],
    ram_size: int,
    *,
    append: str,
    initrd: str | None,
    address: int | None,
    above: Sequence[Stacked],
) -> Image:
    if above and (address is not None or is_bzimage(data)):
        raise ImageError(
            "only an ELF64 executable or a Multiboot kernel finds the image above it; a Linux kernel takes its guests "
            "from its initrd"
        )
    if address is not None:
        return load_raw(data, memory, command_line(append), address)
    if is_bzimage(data):
        ramdisk = None if initrd is None else read_file(initrd, ram_size, "initrd")
        return load_bzimage(data, memory, command_line(append), ramdisk)
    bits = elf_class(data)
    header = find_header(data)
    if header is not None and (bits != 64 or header.has_addresses):
        command = command_line(f"{path} {append}" if append else path)
        return load_multiboot(data, header, memory, command, [*_modules(initrd, ram_size), *_carried(above)])
    if bits == 64:
        return load_elf64(stack(data, above, "") if above else data, memory, command_line(append))
    if bits == 32:
        raise ImageError("a 32-bit ELF file without a Multiboot header; a guest is Multiboot or 64-bit")
    raise ImageError(
        "neither an ELF64 executable nor a Multiboot 1 kernel nor a bzImage; "
        "give an address to load it there as a raw binary"
    )


def _modules(initrd: str | None, ram_size: int) -> list[Module]:
    """The files of QEMU's -initrd for a Multiboot kernel; each one's command line includes its name."""
    modules = []
    for escaped in [] if initrd is None else initrd.replace(",,", "\0").split(","):
        text = escaped.replace("\0", ",")
        modules.append(Module(command_line(text), read_file(text.split(" ", 1)[0], ram_size, "module")))
    return modules


def _carried(above: Sequence[Stacked]) -> list[Module]:
    """The module of a Multiboot kernel that is a hypervisor: the image above it, with those above that behind it."""
    return [Module(command_line(one.append), stack(one.image, above[1:], one.name)) for one in above[:1]]

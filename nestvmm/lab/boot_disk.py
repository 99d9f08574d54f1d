"""The VMX lab's disk, from which a boot sector of ours (native/lab/boot_sector.S) reads a kernel and its initramfs.

Bochs has firmware and nothing else. A stock boot loader would need a CD image made by yet another tool for each boot,
and a kernel that unpacks itself, for which an emulated processor takes a minute.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from nestvmm.errors import HostError, ImageError
from nestvmm.loaders.elf import elf_class, read_elf

__all__ = ["CYLINDER", "write_disk"]

SECTOR = 512
CYLINDER = 16 * 63 * SECTOR
"""The disk is a multiple of this many bytes, as Bochs demands."""

BOOT_SECTOR = Path(__file__).with_name("boot_sector.bin")
ROW = struct.Struct("<III")
PARTITION_TABLE = 0x1BE  # which firmware may look at; ours ends before it
SIGNATURE = 0x1FE

PAGE = 0x1000
LOW_END = 0x9F000  # of RAM below the firmware's data
HIGH = 0x100000
ACPI_SIZE = 0x10000  # at the end of RAM, where Bochs' firmware puts its tables

# struct hvm_start_info and what it points to (Linux, include/xen/interface/hvm/start_info.h)
START_INFO = 0x90000
START_INFO_MAGIC = 0x336EC578
MODULES = START_INFO + 0x100
MEMORY_MAP = START_INFO + 0x200
COMMAND_LINE = START_INFO + 0x400
COMMAND_LINE_MAX = 2048  # x86's COMMAND_LINE_SIZE, the NUL included
RAM, ACPI = 1, 3

# the note that names the PVH entry: owner "Xen", 8 bytes, type 18 (include/xen/interface/elfnote.h)
PVH_NOTE = struct.pack("<III", 4, 8, 18) + b"Xen\0"


def write_disk(disk: BinaryIO, kernel: Path, command_line: str, initrd: Sequence[bytes], memory: int) -> None:
    """Write a disk that boots an unpacked kernel.

    Args:
        disk: an empty file.
        kernel: the ELF file that unpack_kernel gives.
        initrd: pieces that follow each other in memory, each a multiple of 4 bytes long.
        memory: RAM in bytes.

    Raises:
        HostError: the kernel cannot be booted so, or RAM is too small.
    """
    parts, entry = _kernel(kernel)
    top = memory - ACPI_SIZE
    size = sum(len(piece) for piece in initrd)
    begin = at = (top - size - SECTOR) & -PAGE  # a last sector may be read beyond its end
    if begin < max(address + len(data) for address, data in parts) + (64 << 20):
        raise HostError(f"the lab's files do not fit into {memory >> 20} MiB of memory: ask for more")
    for piece in initrd:
        parts.append((at, memoryview(piece)))
        at += len(piece)
    parts.append((START_INFO, memoryview(_start_info(command_line, begin, size, top))))
    sectors = [-(-len(data) // SECTOR) for _, data in parts]
    rows, sector = [], 1
    for (address, _), count in zip(parts, sectors, strict=True):
        rows.append(ROW.pack(address, sector, count))
        sector += count
    disk.write(_boot_sector(b"".join([*rows, ROW.pack(entry, START_INFO, 0)])))
    for (_, data), count in zip(parts, sectors, strict=True):
        disk.write(data)
        disk.write(bytes(count * SECTOR - len(data)))
    disk.write(bytes(-disk.tell() % CYLINDER))
    disk.flush()


def _kernel(path: Path) -> tuple[list[tuple[int, memoryview]], int]:
    """Its segments without the zeros at their ends, for RAM is zero, and its PVH entry point."""
    data = path.read_bytes()
    note = data.find(PVH_NOTE)
    if note < 0 or elf_class(data) != 64:
        raise HostError(
            f"the VMX lab cannot boot {path}: it is no unpacked 64-bit kernel with a PVH entry point; "
            "set NESTVMM_LAB_KERNEL to a directory that holds Debian's unpacked kernel package"
        )
    try:
        loads = read_elf(data).loads
    except ImageError as error:
        raise HostError(f"the VMX lab cannot boot {path}: {error}") from None
    parts = [(load.physical, load.data[: len(bytes(load.data).rstrip(b"\0"))]) for load in loads]
    return parts, int.from_bytes(data[note + len(PVH_NOTE) :][:8], "little")


def _start_info(command_line: str, initrd: int, size: int, top: int) -> bytes:
    text = command_line.encode() + b"\0"
    if len(text) > COMMAND_LINE_MAX:
        raise HostError(f"the lab kernel's command line is longer than {COMMAND_LINE_MAX - 1} bytes: {command_line}")
    regions = ((0, LOW_END, RAM), (HIGH, top - HIGH, RAM), (top, ACPI_SIZE, ACPI))
    page = bytearray(COMMAND_LINE - START_INFO)
    struct.pack_into(
        "<IIIIQQQQII", page, 0, START_INFO_MAGIC, 1, 0, 1, MODULES, COMMAND_LINE, 0, MEMORY_MAP, len(regions), 0
    )
    struct.pack_into("<QQQQ", page, MODULES - START_INFO, initrd, size, 0, 0)
    for number, (address, length, kind) in enumerate(regions):
        struct.pack_into("<QQII", page, MEMORY_MAP - START_INFO + 24 * number, address, length, kind, 0)
    return bytes(page) + text


def _boot_sector(table: bytes) -> bytes:
    sector = BOOT_SECTOR.read_bytes() + table
    if len(sector) > PARTITION_TABLE:
        raise HostError("the lab kernel has too many segments for the boot sector")
    return sector.ljust(SIGNATURE, b"\0") + b"\x55\xaa"

"""Linux's bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst): no firmware, no real-mode code.

The field offsets are those of struct boot_params, which repeats the file's first sectors from 0x1f1 on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from nestvmm.errors import ImageError
from nestvmm.loaders.image import Image, MemoryRange
from nestvmm.loaders.long_mode import long_mode_entry
from nestvmm.loaders.pc_memory import HIDDEN, HIGH_MEMORY, memory_map
from nestvmm.loaders.room import PAGE, Room

__all__ = ["is_bzimage", "load_bzimage"]

_SECTOR: Final = 512
_BOOT_PARAMS_SIZE: Final = 0x1000
_ENTRY_64: Final = 0x200
_VERSION_64: Final = 0x20C  # 2.12, the first with xloadflags
_LOADED_HIGH: Final = 1 << 0
_CAN_USE_HEAP: Final = 1 << 7
_XLF_KERNEL_64: Final = 1 << 0

_E820_ENTRIES: Final = 0x1E8
_SETUP_HEADER: Final = 0x1F1
_SETUP_HEADER_LENGTH: Final = 0x201  # counted from behind this byte
_MAGIC: Final = 0x202
_VID_MODE: Final = 0x1FA
_TYPE_OF_LOADER: Final = 0x210
_LOADFLAGS: Final = 0x211
_CODE32_START: Final = 0x214
_RAMDISK: Final = 0x218
_CMD_LINE_PTR: Final = 0x228
_INIT_SIZE_END: Final = 0x264
_SETUP_HEADER_MAX: Final = 0x290  # where boot_params has other things
_E820_TABLE: Final = 0x2D0
_E820_MAX: Final = 128

_UNKNOWN_LOADER: Final = 0xFF
_NORMAL_VIDEO: Final = 0xFFFF
_E820_ENTRY: Final = struct.Struct("<QQI")


class _Setup(NamedTuple):
    """What the loader reads of a checked setup header.

    header:         its bytes from 0x1f1 on, as boot_params gets them
    kernel:         the protected-mode code
    preferred:      where the kernel wants to run; it cannot run below
    alignment:      of any other load address, or 0 when there is none
    init_size:      bytes that it needs from its load address on before it knows the memory map
    initrd_max:     the highest address that the initrd's last byte can have
    command_max:    bytes of command line, without the NUL
    """

    header: bytes
    kernel: memoryview
    preferred: int
    alignment: int
    init_size: int
    initrd_max: int
    command_max: int


def is_bzimage(data: bytes) -> bool:
    """Whether the file begins like a Linux kernel with a setup header."""
    return data[0x1FE:0x200] == b"\x55\xaa" and data[_MAGIC : _MAGIC + 4] == b"HdrS"


def load_bzimage(data: bytes, memory: Sequence[MemoryRange], command: bytes, initrd: bytes | None = None) -> Image:
    """Load a kernel that `is_bzimage`: protocol 2.12 or later, with a 64-bit entry point.

    command:    the command line with a NUL behind it
    initrd:     goes to the highest page of RAM that the kernel allows, below 4 GiB

    The kernel lies at the address it prefers, or else at the next free one above if it is relocatable. The entry has
    RSI = struct boot_params and the segments 0x10 and 0x18 of a flat GDT.
    """
    setup = _read_setup(data)
    if len(command) - 1 > setup.command_max:
        raise ImageError(f"the command line has {len(command) - 1} bytes, this kernel takes {setup.command_max}")
    room = Room(memory, avoid=[HIDDEN])
    load = _put_kernel(setup, room)
    ramdisk = (0, 0)
    if initrd is not None:
        ramdisk = (
            room.place(initrd, "the initrd", align=PAGE, high=min(setup.initrd_max + 1, 1 << 32), top=True),
            len(initrd),
        )
    command_at = room.place(command, "the command line")
    params = room.place(_boot_params(setup, room, load, ramdisk, command_at), "boot_params", align=PAGE)
    entry = long_mode_entry(room, load + _ENTRY_64, rsi=params)
    return Image("bzImage", "pc", room.segments, entry)


def _read_setup(data: bytes) -> _Setup:
    if len(data) < _INIT_SIZE_END:
        raise ImageError(f"bzImage: {len(data)} bytes do not hold the setup header; truncated?")
    (version,) = struct.unpack_from("<H", data, 0x206)
    loadflags = data[_LOADFLAGS]
    (xloadflags,) = struct.unpack_from("<H", data, 0x236)
    if version < _VERSION_64:
        raise ImageError(
            f"bzImage: boot protocol {version >> 8}.{version & 0xFF:02}; 2.12 or later (Linux 3.8) is needed"
        )
    if not xloadflags & _XLF_KERNEL_64:
        raise ImageError("bzImage: has no 64-bit entry point: a kernel for x86-64 is needed")
    if not loadflags & _LOADED_HIGH:
        raise ImageError("bzImage: is a zImage, which is loaded below 1 MiB")
    header_end = _MAGIC + data[_SETUP_HEADER_LENGTH]
    if header_end < _INIT_SIZE_END:
        raise ImageError(
            f"bzImage: the setup header ends at {header_end:#x}, before its last field at {_INIT_SIZE_END:#x}"
        )

    kernel_at = ((data[_SETUP_HEADER] or 4) + 1) * _SECTOR
    kernel_size = struct.unpack_from("<I", data, 0x1F4)[0] * 16
    if kernel_size <= _ENTRY_64 or kernel_at + kernel_size > len(data):
        raise ImageError(
            f"bzImage: {kernel_size:#x} bytes of kernel at offset {kernel_at:#x}, "
            f"but the file has {len(data):#x} bytes; truncated?"
        )
    alignment, relocatable = struct.unpack_from("<IB", data, 0x230)
    if relocatable and (alignment < PAGE or alignment & (alignment - 1)):
        raise ImageError(f"bzImage: kernel_alignment {alignment:#x} is not a power of two of at least a page")
    preferred, init_size = struct.unpack_from("<QI", data, 0x258)
    if preferred < HIGH_MEMORY:
        raise ImageError(f"bzImage: pref_address {preferred:#x} lies below 1 MiB")
    (initrd_max,) = struct.unpack_from("<I", data, 0x22C)
    (command_max,) = struct.unpack_from("<I", data, 0x238)
    return _Setup(
        header=data[_SETUP_HEADER : min(header_end, _SETUP_HEADER_MAX)],
        kernel=memoryview(data)[kernel_at : kernel_at + kernel_size],
        preferred=preferred,
        alignment=alignment if relocatable else 0,
        init_size=max(init_size, kernel_size),
        initrd_max=initrd_max,
        command_max=command_max,
    )


def _put_kernel(setup: _Setup, room: Room) -> int:
    """Put the kernel where it prefers to be or, where there is no RAM, at the first place above; return its address."""
    address = setup.preferred
    if setup.alignment:
        address = room.claim(setup.init_size, "the kernel", align=setup.alignment, low=address)
    else:
        room.hold(address, setup.init_size, "the kernel")
    room.write(address, setup.kernel)
    return address


def _boot_params(setup: _Setup, room: Room, load: int, ramdisk: tuple[int, int], command: int) -> bytes:
    """The "zero page": the setup header with the loader's fields filled in, and the memory map."""
    regions = memory_map(room.ram)
    if len(regions) > _E820_MAX:
        raise ImageError(f"RAM in {len(regions)} pieces: boot_params holds {_E820_MAX}")
    params = bytearray(_BOOT_PARAMS_SIZE)
    params[_SETUP_HEADER : _SETUP_HEADER + len(setup.header)] = setup.header
    struct.pack_into("<H", params, _VID_MODE, _NORMAL_VIDEO)
    params[_TYPE_OF_LOADER] = _UNKNOWN_LOADER
    params[_LOADFLAGS] &= ~_CAN_USE_HEAP
    struct.pack_into("<I", params, _CODE32_START, load)
    struct.pack_into("<II", params, _RAMDISK, *ramdisk)
    struct.pack_into("<I", params, _CMD_LINE_PTR, command)
    params[_E820_ENTRIES] = len(regions)
    for number, region in enumerate(regions):
        _E820_ENTRY.pack_into(params, _E820_TABLE + number * _E820_ENTRY.size, *region)
    return bytes(params)

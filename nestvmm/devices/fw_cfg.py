"""QEMU's firmware configuration device, by its traditional interface: QEMU docs/specs/fw_cfg.rst.

The keys and the widths of their items are those of QEMU's linux/qemu_fw_cfg.h, hw/nvram/fw_cfg.c and hw/i386.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from nestvmm.devices.device import Server, written
from nestvmm.x86.event import HANDLED, Direction, Event, Result

__all__ = ["FwCfg", "Key"]

SELECTOR: Final = 0
DATA: Final = 1

TRADITIONAL: Final = 1  # in the feature bitmap; there is no DMA interface
WRITE_CHANNEL: Final = 0x4000  # a key bit without effect since QEMU 2.4


class Key(IntEnum):
    """The items that are there; every other key selects an item without bytes."""

    SIGNATURE = 0x00
    ID = 0x01
    RAM_SIZE = 0x03
    NB_CPUS = 0x05
    INITRD_ADDR = 0x0A
    INITRD_SIZE = 0x0B
    MAX_CPUS = 0x0F
    INITRD_DATA = 0x12
    CMDLINE_ADDR = 0x13
    CMDLINE_SIZE = 0x14
    CMDLINE_DATA = 0x15
    FILE_DIR = 0x19


def _little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


class FwCfg:
    """Selector at offset 0 (16 bits, write only), data at offset 1 (a byte at a time; behind an item's end zeros).

    ram:                   guest RAM in bytes
    cpus:                  how many there are, which is also how many there can be
    command_line:          without its NUL, which the item has
    *_address:             where the loader put it, guest-physical and below 4 GiB; 0: it is only here
    """

    name = "fw_cfg"
    server: Server | None = None

    def __init__(
        self,
        ram: int,
        *,
        cpus: int = 1,
        command_line: bytes = b"",
        initrd: bytes = b"",
        command_line_address: int = 0,
        initrd_address: int = 0,
    ) -> None:
        self._items: dict[int, bytes] = {
            Key.SIGNATURE: b"QEMU",
            Key.ID: _little(TRADITIONAL, 4),
            Key.RAM_SIZE: _little(ram, 8),
            Key.NB_CPUS: _little(cpus, 2),
            Key.MAX_CPUS: _little(cpus, 2),
            Key.INITRD_ADDR: _little(initrd_address, 4),
            Key.INITRD_SIZE: _little(len(initrd), 4),
            Key.INITRD_DATA: initrd,
            Key.CMDLINE_ADDR: _little(command_line_address, 4),
            Key.CMDLINE_SIZE: _little(len(command_line) + 1, 4),
            Key.CMDLINE_DATA: command_line + b"\0",
            # only the directory is big endian: its count of files
            Key.FILE_DIR: (0).to_bytes(4, "big"),
        }
        self._item = self._items[Key.SIGNATURE]
        self._position = 0

    def access(self, offset: int, event: Event) -> Result:
        """Select an item, or read its next bytes: a string input of count N gives N of them."""
        if event.direction == Direction.WRITE:
            if offset == SELECTOR and event.size == 2:
                self._select(int.from_bytes(written(event)[-2:], "little"))
            return HANDLED
        if offset != DATA:
            return Result.read_bytes(b"\xff" * (event.size * event.count))
        # of a wider element only the first byte is the data register
        others = b"\xff" * (event.size - 1)
        data = self._take(event.count)
        return Result.read_bytes(b"".join(bytes([byte]) + others for byte in data) if others else data)

    def _select(self, key: int) -> None:
        self._item = self._items.get(key & ~WRITE_CHANNEL, b"")
        self._position = 0

    def _take(self, count: int) -> bytes:
        data = self._item[self._position : self._position + count]
        self._position += len(data)
        return data.ljust(count, b"\0")

"""The binary statistics of a VM or a vCPU (api.rst 4.133, KVM_GET_STATS_FD): counters that KVM itself describes."""

from __future__ import annotations

import os
import struct
from typing import Any

from nestvmm.kvm.handle import Handle
from nestvmm.kvm.record import Value

__all__ = ["StatDescriptor", "Stats", "StatsHeader"]

_HEADER = struct.Struct("=6I")
_DESCRIPTOR = struct.Struct("=IhHII")


class StatsHeader(Value):
    """Where things are in the descriptor's file; offsets and sizes in bytes."""

    flags: int
    name_size: int
    num_desc: int
    id_offset: int
    desc_offset: int
    data_offset: int


class StatDescriptor(Value):
    """One statistic: `size` 64-bit values at `offset` in the data block.

    flags: KVM_STATS_TYPE_*, KVM_STATS_UNIT_* and KVM_STATS_BASE_*; a value counts base ** exponent units.
    """

    name: str
    flags: int
    exponent: int
    size: int
    offset: int
    bucket_size: int


class Stats(Handle):
    """An open statistics descriptor. Header and descriptors do not change and are read once."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.header = StatsHeader(*_HEADER.unpack(self._read(0, _HEADER.size)))
        self.id = _text(self._read(self.header.id_offset, self.header.name_size))
        self.descriptors = self._descriptors()
        self._data_size = max((d.offset + 8 * d.size for d in self.descriptors), default=0)

    def read(self) -> dict[str, int | tuple[int, ...]]:
        """All values now: a number, or the buckets of a histogram."""
        data = self._read(self.header.data_offset, self._data_size)
        values: dict[str, int | tuple[int, ...]] = {}
        for descriptor in self.descriptors:
            numbers: tuple[int, ...] = struct.unpack_from(f"={descriptor.size}Q", data, descriptor.offset)
            values[descriptor.name] = numbers[0] if descriptor.size == 1 else numbers
        return values

    def _descriptors(self) -> tuple[StatDescriptor, ...]:
        header = self.header
        stride = _DESCRIPTOR.size + header.name_size
        block = self._read(header.desc_offset, stride * header.num_desc)
        return tuple(_descriptor(block[at : at + stride]) for at in range(0, len(block), stride))

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self.fd, size, offset)
        if len(data) != size:
            raise ValueError(f"KVM's statistics end after {len(data)} of {size} bytes at {offset}")
        return data


def _descriptor(raw: bytes) -> StatDescriptor:
    fields: tuple[Any, ...] = _DESCRIPTOR.unpack_from(raw)
    return StatDescriptor(_text(raw[_DESCRIPTOR.size :]), *fields)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")

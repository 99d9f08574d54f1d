"""Memory of this process that a guest can be given."""

from __future__ import annotations

import mmap
from typing import Self

from nestvmm._native import ffi, lib

__all__ = ["HUGE_PAGE", "PAGE", "HostMemory"]

PAGE = 4096
HUGE_PAGE = 2 << 20


class HostMemory:
    """Anonymous zeroed memory, aligned to 2 MiB, in huge pages where the host has them; left out of core dumps.

    Nothing is reserved: a page costs memory once it is touched. `size` is a positive multiple of 4096. The mapping
    ends when this object is closed and no view of it is left; until then its address stays valid. Keep it open for as
    long as a VM has a slot that names it.
    """

    def __init__(self, size: int) -> None:
        if size <= 0 or size % PAGE:
            raise ValueError(f"host memory of {size:#x} bytes: the size must be a positive multiple of {PAGE}")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | lib.MAP_NORESERVE
        mapping = mmap.mmap(-1, size + HUGE_PAGE, flags=flags)
        start = int(ffi.cast("uintptr_t", ffi.from_buffer(mapping)))
        skip = -start % HUGE_PAGE
        mapping.madvise(mmap.MADV_HUGEPAGE, skip, size)
        mapping.madvise(mmap.MADV_DONTDUMP)
        self._address = start + skip
        self._size = size
        self._view: memoryview | None = memoryview(mapping)[skip : skip + size]

    @property
    def address(self) -> int:
        """Where it begins in this process."""
        self.view  # noqa: B018 (raises when closed)
        return self._address

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    @property
    def view(self) -> memoryview:
        """All of it, to read and write."""
        if self._view is None:
            raise ValueError("this HostMemory is closed")
        return self._view

    def read(self, offset: int, size: int) -> bytes:
        """Copy `size` bytes out. Raises IndexError outside the memory."""
        return bytes(self.view[self._range(offset, size)])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` in. Raises IndexError outside the memory."""
        self.view[self._range(offset, len(data))] = data

    def _range(self, offset: int, size: int) -> slice:
        if offset < 0 or size < 0 or offset + size > self._size:
            raise IndexError(f"{size:#x} bytes at {offset:#x} are not within {self._size:#x} bytes of host memory")
        return slice(offset, offset + size)

    def close(self) -> None:
        """Let go of the mapping."""
        self._view = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

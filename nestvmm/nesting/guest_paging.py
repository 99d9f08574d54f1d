"""The walk through level n's page tables that its processor would do, rights, accessed and dirty bits included.

`native/paging.c` does it. Protection keys and shadow stacks are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.engines import MemorySlot, native_slots
from nestvmm.hypervisors import GuestAccessError
from nestvmm.kvm import HostMemory, Sregs

__all__ = ["Access", "GuestPaging", "PageFaultError"]


class Access(IntEnum):
    """What is done with the memory."""

    READ = lib.NV_PAGING_READ
    WRITE = lib.NV_PAGING_WRITE
    FETCH = lib.NV_PAGING_FETCH


class PageFaultError(Exception):
    """The walk ends in #PF with this error code; CR2 gets `address`."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(f"page fault at {address:#x}, error code {error_code:#x}")
        self.address = address
        self.error_code = error_code


class GuestPaging:
    """Walks the tables that lie in these slots of L0's memory; bits: width of level n's physical addresses."""

    def __init__(self, memory: HostMemory, slots: Sequence[MemorySlot], bits: int) -> None:
        self._slots = native_slots(memory, slots)
        self._c: Any = ffi.new("struct nv_paging *")
        self._physical: Any = ffi.new("uint64_t *")
        lib.nv_paging_init(self._c, self._slots, len(slots), bits)

    def translate(self, sregs: Sregs, linear: int, access: Access, *, user: bool, ac: bool = False) -> int:
        """The physical address of a linear one, after setting the accessed and dirty bits.

        user: the access is one of CPL 3. ac: RFLAGS.AC, which lifts SMAP.
        Raises PageFaultError, and GuestAccessError for tables that lie where level n has no memory.
        """
        c = self._c
        c.cr0, c.cr3, c.cr4, c.efer = sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer
        c.user, c.ac = user, ac
        status = lib.nv_paging_walk(c, linear, access, self._physical)
        if status == lib.NV_PAGING_FAULT:
            raise PageFaultError(linear, c.error)
        if status == lib.NV_PAGING_UNBACKED:
            raise GuestAccessError(f"the page tables of linear address {linear:#x} reach outside its memory")
        return int(self._physical[0])

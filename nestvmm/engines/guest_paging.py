"""The walk through level n's page tables that its processor would do, rights, accessed and dirty bits included.

`native/paging.c` does it. Protection keys and shadow stacks are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from nestvmm._native import ffi, lib
from nestvmm.engines.native_slots import native_slots

if TYPE_CHECKING:
    from nestvmm.engines.engine import MemorySlot
    from nestvmm.kvm import CpuidEntry, HostMemory, Sregs

__all__ = ["Access", "GuestPaging", "PageFaultError", "UnbackedError", "physical_bits"]

_BITS: Final = 36
_PAGE: Final = 4096
_ADDRESS: Final = 0xFFFFFFFFFFFFFFFF


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


class UnbackedError(Exception):
    """The page tables of `address` lie where level n has no memory."""

    def __init__(self, address: int) -> None:
        super().__init__(f"the page tables of linear address {address:#x} reach outside its memory")
        self.address = address


class GuestPaging:
    """Walks tables that lie in slots of `memory`.

    c:  the cffi `struct nv_paging *`
    """

    def __init__(self, memory: HostMemory, slots: Sequence[MemorySlot]) -> None:
        self._memory = memory
        self._bits = _BITS
        self._physical: Any = ffi.new("uint64_t *")
        self.c: Any = ffi.new("struct nv_paging *")
        self._slots = native_slots(memory, slots)
        lib.nv_paging_init(self.c, self._slots, len(self._slots), self._bits)

    def set_slots(self, slots: Sequence[MemorySlot]) -> None:
        """The memory is in these slots now."""
        self._slots = native_slots(self._memory, slots)
        self._change()

    def set_cpuid(self, entries: Iterable[CpuidEntry]) -> None:
        """Physical addresses are as wide as this CPUID tells."""
        self._bits = physical_bits(entries)
        self._change()

    def _change(self) -> None:
        lib.nv_paging_change(self.c, self._slots, len(self._slots), self._bits)

    def translate(self, sregs: Sregs, linear: int, access: Access, *, user: bool, ac: bool = False) -> int:
        """The physical address of a linear one, after setting the accessed and dirty bits.

        user: the access is one of CPL 3. ac: RFLAGS.AC, which lifts SMAP. Raises PageFaultError and UnbackedError.
        """
        self._load(sregs, user=user, ac=ac)
        self._refuse(lib.nv_paging_walk(self.c, linear, access, self._physical), linear)
        return int(self._physical[0])

    def fetch(self, sregs: Sregs, linear: int, size: int, *, user: bool) -> bytes:
        """Up to `size` bytes of code from a linear address on: as many as its processor could fetch there."""
        self._load(sregs, user=user, ac=False)
        buffer = ffi.new("uint8_t[]", size)
        have = 0
        while have < size:
            more = lib.nv_paging_fetch(self.c, (linear + have) & _ADDRESS, buffer + have, size - have)
            if not more:
                break
            have += more
        return bytes(ffi.buffer(buffer, have))

    def read(self, sregs: Sregs, linear: int, size: int) -> bytes:
        """What the processor itself reads from a linear address on; raises PageFaultError and UnbackedError."""
        return b"".join(bytes(piece) for piece in self._pieces(sregs, linear, size, Access.READ))

    def write(self, sregs: Sregs, linear: int, data: bytes) -> None:
        """What the processor itself writes; raises PageFaultError and UnbackedError, where nothing has been written."""
        done = 0
        for piece in list(self._pieces(sregs, linear, len(data), Access.WRITE)):
            piece[:] = data[done : done + len(piece)]
            done += len(piece)

    def _pieces(self, sregs: Sregs, linear: int, size: int, access: Access) -> Iterator[Any]:
        """The memory behind linear addresses, a page or less at a time."""
        self._load(sregs, user=False, ac=False)
        lib.nv_paging_flush(self.c)
        host = ffi.new("uint8_t **")
        while size:
            status = lib.nv_paging_translate(self.c, linear, access, host)
            self._refuse(status, linear)
            length = min(size, _PAGE - linear % _PAGE)
            yield ffi.buffer(host[0], length)
            linear, size = linear + length & _ADDRESS, size - length

    def _refuse(self, status: int, linear: int) -> None:
        if status == lib.NV_PAGING_FAULT:
            raise PageFaultError(linear, self.c.error)
        if status == lib.NV_PAGING_UNBACKED:
            raise UnbackedError(linear)

    def _load(self, sregs: Sregs, *, user: bool, ac: bool) -> None:
        c = self.c
        c.cr0, c.cr3, c.cr4, c.efer = sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer
        c.user, c.ac = user, ac


def physical_bits(entries: Iterable[CpuidEntry]) -> int:
    """The width of physical addresses that this CPUID tells (CPUID 8000_0008 EAX)."""
    told = next((entry.eax & 0xFF for entry in entries if entry.function == 0x80000008), 0)
    return told if 32 <= told <= 52 else _BITS

"""The walk through a guest's page tables that its processor would do, rights, accessed and dirty bits included.

AMD APM vol. 2, 5; Intel SDM vol. 3, 4. Protection keys and shadow stacks are not looked at.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from nestvmm.kvm import Sregs

__all__ = ["Access", "PageFaultError", "Physical", "translate"]

_CR0_PG, _CR0_WP = 1 << 31, 1 << 16
_CR4_PSE, _CR4_PAE, _CR4_LA57, _CR4_SMEP, _CR4_SMAP = 1 << 4, 1 << 5, 1 << 12, 1 << 20, 1 << 21
_EFER_LMA, _EFER_NXE = 1 << 10, 1 << 11

_PRESENT, _WRITE, _USER, _ACCESSED, _DIRTY, _LARGE = 1, 2, 4, 0x20, 0x40, 0x80
_NX = 1 << 63
_ADDRESS = (1 << 52) - (1 << 12)

# Bits of a page fault's error code.
_ERROR_PRESENT, _ERROR_WRITE, _ERROR_USER, _ERROR_RESERVED, _ERROR_FETCH = 1, 2, 4, 8, 16


class Access(Enum):
    """What is done with the memory."""

    READ = 0
    WRITE = 1
    FETCH = 2


class PageFaultError(Exception):
    """The walk ends in #PF with this error code; CR2 gets `address`."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(f"page fault at {address:#x}, error code {error_code:#x}")
        self.address = address
        self.error_code = error_code


class Physical(Protocol):
    """The physical memory that holds the tables; both raise where there is none."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Writes them."""
        ...


class _Shape(NamedTuple):
    """One kind of paging: address bits of each level's index, the highest first, and bytes of an entry."""

    indices: tuple[int, ...]
    entry: int


_LEGACY = _Shape((10, 10), 4)
_PAE = _Shape((2, 9, 9), 8)
_LONG = _Shape((9, 9, 9, 9), 8)
_LA57 = _Shape((9, 9, 9, 9, 9), 8)


def translate(
    memory: Physical, sregs: Sregs, linear: int, access: Access, *, user: bool, ac: bool = False, bits: int = 52
) -> int:
    """The physical address of a linear one, after setting the accessed and dirty bits; raises PageFaultError.

    user: the access is one of CPL 3. ac: RFLAGS.AC, which lifts SMAP. bits: width of physical addresses (CPUID
    8000_0008 EAX).
    """
    if not sregs.cr0 & _CR0_PG:
        return linear & 0xFFFFFFFF
    shape = _shape(sregs)
    long = bool(sregs.efer & _EFER_LMA)
    code = (_ERROR_WRITE if access is Access.WRITE else 0) | (_ERROR_USER if user else 0)
    nx_on = bool(sregs.efer & _EFER_NXE) and shape is not _LEGACY
    if access is Access.FETCH and (nx_on or sregs.cr4 & _CR4_SMEP):
        code |= _ERROR_FETCH
    table = sregs.cr3 & (_ADDRESS if long else 0xFFFFFFE0 if shape is _PAE else 0xFFFFF000)
    rights = _WRITE | _USER
    nx = False
    shift = 12 + sum(shape.indices)
    visited = []
    last = len(shape.indices) - 1
    for depth, width in enumerate(shape.indices):
        shift -= width
        place = table + (linear >> shift & (1 << width) - 1) * shape.entry
        entry = int.from_bytes(memory.read(place, shape.entry), "little")
        if not entry & _PRESENT:
            raise PageFaultError(linear, code)
        # the four entries of PAE's top have no rights, and no accessed bit
        top_of_pae = shape is _PAE and depth == 0
        large = depth < last and _is_large(entry, shape, depth, sregs)
        if entry & _reserved(shape, depth, large, nx_on, bits):
            raise PageFaultError(linear, code | _ERROR_PRESENT | _ERROR_RESERVED)
        if not top_of_pae:
            rights &= entry
            nx = nx or bool(entry & _NX)
            visited.append((place, entry))
        if large or depth == last:
            break
        table = entry & (_ADDRESS if shape.entry == 8 else 0xFFFFF000)
    _check(sregs, linear, access, code, rights, user=user, ac=ac, nx=nx and nx_on)
    _mark(memory, visited, shape.entry, write=access is Access.WRITE)
    offset = (1 << shift) - 1
    frame = entry & _ADDRESS
    if shape is _LEGACY and large:
        frame = entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32  # PSE-36
    return frame & ~offset | linear & offset


def _shape(sregs: Sregs) -> _Shape:
    if sregs.efer & _EFER_LMA:
        return _LA57 if sregs.cr4 & _CR4_LA57 else _LONG
    return _PAE if sregs.cr4 & _CR4_PAE else _LEGACY


def _is_large(entry: int, shape: _Shape, depth: int, sregs: Sregs) -> bool:
    """Whether the entry maps a page of 1 GiB, 4 MiB or 2 MiB."""
    left = len(shape.indices) - depth
    if shape is _LEGACY:
        return bool(entry & _LARGE and sregs.cr4 & _CR4_PSE)
    return bool(entry & _LARGE) and (left == 2 or (left == 3 and shape is not _PAE))


def _reserved(shape: _Shape, depth: int, large: bool, nx_on: bool, bits: int) -> int:
    """The bits of an entry that must be zero."""
    if shape is _LEGACY:
        return 1 << 21 if large else 0
    left = len(shape.indices) - depth
    if shape is _PAE:
        high = (1 << 63) - (1 << bits)
        if depth == 0:
            return high | _NX | 0x1E6
    else:
        high = (1 << 52) - (1 << bits)
    reserved = high | (0 if nx_on else _NX)
    if large:
        reserved |= (1 << (21 if left == 2 else 30)) - (1 << 13)
    elif left >= 4:
        reserved |= _LARGE
    return reserved


def _check(
    sregs: Sregs, linear: int, access: Access, code: int, rights: int, *, user: bool, ac: bool, nx: bool
) -> None:
    """Raises PageFaultError for a mapped page that does not give the right."""
    user_page = bool(rights & _USER)
    denied = user and not user_page
    if access is Access.FETCH:
        denied = denied or nx or (not user and user_page and bool(sregs.cr4 & _CR4_SMEP))
    elif not user and user_page and sregs.cr4 & _CR4_SMAP and not ac:
        denied = True
    if access is Access.WRITE and not rights & _WRITE and (user or sregs.cr0 & _CR0_WP):
        denied = True
    if denied:
        raise PageFaultError(linear, code | _ERROR_PRESENT)


def _mark(memory: Physical, visited: list[tuple[int, int]], size: int, *, write: bool) -> None:
    for number, (place, entry) in enumerate(reversed(visited)):
        marked = entry | _ACCESSED | (_DIRTY if write and number == 0 else 0)
        if marked != entry:
            memory.write(place, marked.to_bytes(size, "little"))

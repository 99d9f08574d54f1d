"""What Python levels above an image give of its guest's memory: the part of native/nested_given.c that is kept here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from nestvmm._native import ffi, lib
from nestvmm.engines.engine import MemorySlot
from nestvmm.engines.shadow import ADDRESSES, ShadowRange
from nestvmm.x86.rights import Rights
from nestvmm.x86.spans import Span, minus

__all__ = ["Given", "given_ranges", "takes_away"]

_PAGE: Final = 4096
_WINDOW: Final = lib.NV_SHADOW_WINDOW
_LAST: Final = ADDRESSES - 1


def given_ranges(slots: Sequence[MemorySlot], holes: Sequence[Span]) -> list[ShadowRange]:
    """The ranges for memory, whose offsets are the image's addresses, and for pages that are windows; ascending."""
    ranges = [ShadowRange(first, min(last, _LAST), _WINDOW, Rights.ALL) for first, last in holes if first <= _LAST]
    for slot in slots:
        rights = Rights.READ
        if not slot.readonly:
            rights |= Rights.WRITE
        if slot.executable:
            rights |= Rights.EXECUTE
        for first, last in minus([(slot.guest_address, slot.guest_address + slot.size - 1)], holes):
            if first <= _LAST:
                at = slot.offset + first - slot.guest_address
                ranges.append(ShadowRange(first, min(last, _LAST), at, rights))
    return sorted(ranges)


def takes_away(old: Sequence[ShadowRange], new: Sequence[ShadowRange]) -> bool:
    """Whether an address of the old ranges leads elsewhere by the new ones, or to fewer rights. Both ascending."""
    following = iter(new)
    now = next(following, None)
    for before in old:
        at = before.first
        while at <= before.last:
            while now is not None and now.last < at:
                now = next(following, None)
            if now is None or now.first > at or before.rights & ~now.rights or _shift(before) != _shift(now):
                return True
            at = now.last + 1
    return False


def _shift(one: ShadowRange) -> int:
    return _WINDOW if one.to == _WINDOW else one.to - one.first


class Given:
    """The maps above the images of one vCPU.

    c:  the cffi `struct nv_nested *`
    """

    #: Pages of one space that are holes because every level declined their faults. A guest chooses how many.
    conceded_max: Final = 256

    def __init__(self, c: Any) -> None:
        self._c = c
        self._maps: dict[int, tuple[Sequence[MemorySlot], Sequence[Span]]] = {}
        self._conceded: dict[int, set[int]] = {}
        # ranges as they are, and what keeps C's copy of them
        self._now: dict[int, tuple[list[ShadowRange], Any]] = {}

    def set(self, space: int, slots: Sequence[MemorySlot], devices: Sequence[Span]) -> None:
        """The machine at depth `space` has this memory, and devices of levels; all else is faults."""
        self._maps[space] = slots, devices
        self._conceded[space] = {
            page
            for page in self._conceded.get(space, ())
            if not any(page < slot.guest_address + slot.size and slot.guest_address < page + _PAGE for slot in slots)
        }
        self._compile(space)

    def concede(self, space: int, address: int) -> bool:
        """Makes a page that no level gives a hole; False: some level gives it, or none ever can."""
        page = address & -_PAGE
        ranges = self._now[space][0] if space in self._now else []
        if space not in self._maps or page > _LAST or any(one.first <= page <= one.last for one in ranges):
            return False
        conceded = self._conceded[space]
        if len(conceded) >= self.conceded_max:
            conceded.clear()
        conceded.add(page)
        self._compile(space)
        return True

    def _compile(self, space: int) -> None:
        slots, devices = self._maps[space]
        holes = [*devices, *((page, page + _PAGE - 1) for page in self._conceded[space])]
        ranges = given_ranges(slots, holes)
        # cffi's array of none is an address all the same, and NULL means something else
        c = ffi.new("struct nv_shadow_range[]", [(*one[:3], one.rights.value, 0) for one in ranges] or 1)
        less = space not in self._now or takes_away(self._now[space][0], ranges)
        lib.nv_nested_give(self._c, space, c, len(ranges), less)
        self._now[space] = ranges, c

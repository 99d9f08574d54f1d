"""The maps of a whole tower: one chain of maps below the lowest image, and one between each image and the next code.

    L5 guest             space 1: L5's addresses, through L4's and L3's maps to what the image gives L3
    L4, L3 Python
    L2 image             space 0: L2's addresses, through L1's map to L0's memory
    L1 Python

A physical address of a level's means something in its own space only; the image between two of them carries one to the
other by its nested page tables as they are at the moment. In the designation table the bits from NV_SPACE_SHIFT on say
whose address it is, as in native/event.h.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from nestvmm._native import lib
from nestvmm.nesting.levels import LevelMaps
from nestvmm.nesting.memory import PAGE_SIZE, MemoryMap, Slot
from nestvmm.x86.exit_reason import REASONS, SPACED, Qualifier
from nestvmm.x86.rights import Rights
from nestvmm.x86.scope import Scope
from nestvmm.x86.spans import Span

__all__ = ["TowerMaps"]

_SHIFT: Final = lib.NV_SPACE_SHIFT
_LAST: Final = (1 << _SHIFT) - 1
# A guest chooses the addresses: of so many pages what `carry` found is kept.
_CARRIED_MAX: Final = 4096

_Claimed = Iterable[tuple[int, int, int]]


class TowerMaps:
    """The maps of a tower's Python hypervisors.

    ram:     L0's, in bytes
    maps:    of each level whose hypervisor is a Python one, to the level's own addresses
    code:    the levels of machine code, ascending
    holes, faults: as nestvmm.nesting.levels.LevelMaps has them, of all levels
    passed:  (level, first, last), the physical addresses of level+1 whose devices are the image's at `level` to give
    """

    def __init__(
        self,
        ram: int,
        maps: Mapping[int, MemoryMap],
        code: Sequence[int],
        holes: _Claimed = (),
        faults: _Claimed = (),
        passed: _Claimed = (),
    ) -> None:
        self.code = code
        # what `carry` found, by space, page and level: exits come to the same devices again and again
        self._carried: dict[tuple[int, int, int], tuple[int | None]] = {}
        holes, faults, passed = list(holes), list(faults), list(passed)
        #: By space.
        self.parts: list[LevelMaps] = []
        lowest = 1
        for top in code:
            own = [maps[level] for level in range(lowest, top)]
            given_up = [(first, last) for level, first, last in passed if level == lowest - 1]
            bottom = ram if not self.parts else None
            self.parts.append(LevelMaps(bottom, own, holes, faults, lowest=lowest, passed=given_up))
            lowest = top + 1

    def space(self, level: int) -> int:
        """The space that level `level`'s physical addresses are in."""
        return bisect_left(self.code, level)

    def part(self, level: int) -> LevelMaps:
        """The maps of that space."""
        return self.parts[self.space(level)]

    def map_of(self, level: int) -> MemoryMap:
        """The map of the Python hypervisor at `level`."""
        return self.part(level).map_of(level)

    def change(self, level: int, new: MemoryMap) -> None:
        """Gives the hypervisor at `level` a new map. Raises UsageError, and changes nothing, for too many regions."""
        self.part(level).change(level, new)
        self._carried = {}

    def gives(self, level: int, address: int, right: Rights) -> bool:
        """Whether the hypervisor at `level` itself allows an access to level+1's address."""
        return self.part(level).gives(level, address, right)

    def to_host(self, level: int) -> MemoryMap:
        """See LevelMaps.to_host."""
        return self.part(level).to_host(level)

    def slots(self) -> tuple[Slot, ...]:
        """The memory slots of the lowest machine code."""
        return self.parts[0].slots()

    def reported(self) -> list[Span]:
        """Where faults of the lowest machine code are reported."""
        return self.parts[0].reported()

    def carry(self, space: int, address: int, level: int) -> int | None:
        """A space's address as level `level` sees it; None: not that level's, or a level between lacks it."""
        offset = address % PAGE_SIZE
        key = space, address - offset, level
        (page,) = self._carried.get(key) or self._find(key)
        return None if page is None else page + offset

    def _find(self, key: tuple[int, int, int]) -> tuple[int | None]:
        """Where the page is, if it is somewhere; maps have whole pages."""
        space, page, level = key
        carried = self._carried  # another thread may change a map meanwhile: then it is those of before
        found = (self.parts[space].carry(page, level) if space == self.space(level) else None,)
        if len(carried) >= _CARRIED_MAX:
            carried.clear()
        carried[key] = found
        return found

    def at_top(self, level: int, first: int, last: int) -> list[Span]:
        """The addresses, with their space, that lead to level `level`'s first to last."""
        tag = self.space(level) << _SHIFT
        return [(low | tag, min(high, _LAST) | tag) for low, high in self.part(level).at_top(level, first, last)]

    def project(self, level: int, scope: Scope) -> list[Span]:
        """The qualifiers of a claim of the hypervisor at `level`, as the designation table has them."""
        if scope.reason not in SPACED:
            return self.part(level + 1).at_top(level + 1, scope.first, scope.last)
        if REASONS[scope.reason].qualifier is Qualifier.PHYSICAL:
            return self.at_top(level + 1, scope.first, scope.last)
        tag = self.space(level + 1) << _SHIFT
        return [(scope.first | tag, min(scope.last, _LAST) | tag)]

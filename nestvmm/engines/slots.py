"""KVM's memory slots of one piece of host memory: linked in and taken away as their list changes."""

from __future__ import annotations

from collections.abc import Iterable

from nestvmm.engines.engine import MemorySlot
from nestvmm.kvm import HostMemory, Vm

__all__ = ["SlotTable"]

_Key = tuple[int, int, int, bool]


class SlotTable:
    """The slots of `memory` in `vm`, from slot number `first` on."""

    def __init__(self, vm: Vm, memory: HostMemory, first: int = 0) -> None:
        self._vm = vm
        self._memory = memory
        self._first = first
        self._numbers: dict[_Key, int] = {}

    def link(self, slots: Iterable[MemorySlot]) -> None:
        """Makes these the slots; those that were there already stay untouched."""
        wanted = [(slot.guest_address, slot.size, slot.offset, slot.readonly) for slot in slots]
        # first what goes: slots must not overlap, not even for a moment
        for key in self._numbers.keys() - set(wanted):
            self._vm.delete_memory_region(self._numbers.pop(key))
        taken = set(self._numbers.values())
        free = (number for number in range(self._first, self._first + len(wanted)) if number not in taken)
        for key in wanted:
            if key not in self._numbers:
                number = next(free)
                guest_address, size, offset, readonly = key
                self._vm.set_memory_region(
                    number, guest_address, size, self._memory.address + offset, readonly=readonly
                )
                self._numbers[key] = number

"""Level n's nested page tables: what native/shadow.c fills them from, and where KVM has what they lead to.

    0            level n's own addresses: holes, and KVM's read-only slots         (an access here is KVM's MMIO exit)
    ...
    ram          L0's memory, once
    2**39 - 1G   windows for holes at addresses that something else has in KVM; the tables; the switcher

Level n's writable memory lies in L0's; what needs an exit of KVM's own, as under the direct engine, is at its own
address. Where a level claims nested page faults, nothing is mapped that its map does not give.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Final, NamedTuple

from nestvmm._native import ffi, lib
from nestvmm.engines.engine import EngineConfig, MemorySlot
from nestvmm.engines.slots import SlotTable
from nestvmm.errors import HostError
from nestvmm.kvm import HostMemory, Vm
from nestvmm.x86.rights import Rights
from nestvmm.x86.spans import Span, minus

__all__ = ["ADDRESSES", "KvmSlot", "Layout", "Shadow", "ShadowRange", "shadow_layout"]

_PAGE: Final = 4096
_GIB: Final = 1 << 30
#: Level n's physical addresses end here: four levels of tables.
ADDRESSES: Final = 1 << 48
#: The end of what level n's memory may take in KVM's guest-physical addresses.
_END: Final = lib.NV_SHADOW_WINDOWS
_WINDOW: Final = lib.NV_SHADOW_WINDOW


class ShadowRange(NamedTuple):
    """Level n's addresses first to last lead to KVM's from `to` on, or to windows."""

    first: int
    last: int
    to: int
    rights: Rights


_FIRST = attrgetter("first")


class KvmSlot(NamedTuple):
    """A memory slot of KVM's; see nestvmm.engines.engine.MemorySlot."""

    guest_address: int
    size: int
    offset: int
    readonly: bool
    executable: bool = True


class Layout(NamedTuple):
    """The ranges of the tables, and what of level n's memory needs a read-only slot of KVM's at its own address."""

    ranges: list[ShadowRange]
    readonly: list[KvmSlot]


def shadow_layout(slots: Iterable[MemorySlot], reported: Sequence[Span], ram: int) -> Layout:
    """What level n's addresses lead to when L0's memory is at `ram`.

    slots:     level n's memory, ascending
    reported:  ranges of whole pages, ascending, where what the slots do not give is a fault

    Raises HostError for read-only memory at addresses that L0's memory has in KVM.
    """
    ranges: list[ShadowRange] = []
    readonly: list[KvmSlot] = []
    at = 0
    for slot in slots:
        ranges += _holes(at, slot.guest_address - 1, reported, ram)
        at = slot.guest_address + slot.size
        rights = Rights.READ | (Rights.EXECUTE if slot.executable else Rights(0))
        moved = ram + slot.offset - slot.guest_address
        if not slot.readonly:
            ranges.append(ShadowRange(slot.guest_address, at - 1, slot.guest_address + moved, rights | Rights.WRITE))
            continue
        for first, last, faults in _split(slot.guest_address, at - 1, reported):
            if faults:
                ranges.append(ShadowRange(first, last, first + moved, rights))
                continue
            if last >= ram:
                raise HostError(
                    f"level n has read-only memory at {first:#x}-{last:#x}; this engine takes that below {ram:#x}"
                )
            ranges.append(ShadowRange(first, last, first, rights | Rights.WRITE))
            readonly.append(KvmSlot(first, last + 1 - first, first + moved - ram, readonly=True))
    ranges += _holes(at, ADDRESSES - 1, reported, ram)
    return Layout(ranges, readonly)


def _holes(first: int, last: int, reported: Sequence[Span], ram: int) -> Iterator[ShadowRange]:
    for low, high, faults in _split(first, last, reported):
        if faults:
            continue
        if low < ram:
            yield ShadowRange(low, min(high, ram - 1), low, Rights.ALL)
        if high >= ram:
            yield ShadowRange(max(low, ram), high, _WINDOW, Rights.ALL)


def _split(first: int, last: int, reported: Sequence[Span]) -> Iterator[tuple[int, int, bool]]:
    """The pieces of a range that lie in one of the reported ranges, or in none."""
    at = first
    for low, high in reported:
        if high < at or low > last:
            continue
        if low > at:
            yield at, low - 1, False
        yield max(low, at), min(high, last), True
        at = high + 1
    if at <= last:
        yield at, last, False


class Shadow:
    """The nested page tables of one engine; a context manager that frees their memory.

    format:   NV_SHADOW_NPT or NV_SHADOW_EPT
    largest:  of the pages that they may have: 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB
    first:    the first number of a memory slot of KVM's that is free

    Raises HostError when level n has more memory than there are addresses for.
    """

    #: Pages of 4 KiB that the tables may take.
    pages: ClassVar[int] = lib.NV_SHADOW_TABLE_COUNT
    #: Pages that are holes although a level claims their faults, because it declined one. A guest chooses how many.
    conceded_max: ClassVar[int] = 256

    def __init__(self, vm: Vm, config: EngineConfig, kind: int, largest: int, first: int) -> None:
        self._vm = vm
        pages = self.pages
        size = config.memory.size
        if size > _END:
            raise HostError(f"{size >> 20} MiB of guest memory; this engine has addresses for {_END >> 20} MiB")
        self._ram: int = _END - size & -_GIB
        self._whole = KvmSlot(self._ram, size, 0, readonly=False)
        self._table_memory = HostMemory(pages * _PAGE)
        self._windows = ffi.new("uint64_t[]", lib.NV_SHADOW_WINDOW_COUNT)
        self._region = (first, 0, lib.NV_SHADOW_TABLES, pages * _PAGE, self._table_memory.address)
        vm.set_memory_region(first, lib.NV_SHADOW_TABLES, pages * _PAGE, self._table_memory.address)
        self._slot_table = SlotTable(vm, config.memory, first + 1)
        self.c: Any = ffi.new(
            "struct nv_shadow *",
            {
                "pool": ffi.cast("uint64_t *", self._table_memory.address),
                "physical": lib.NV_SHADOW_TABLES,
                "pages": pages,
                "format": kind,
                "largest": largest,
                "window": lib.NV_SHADOW_WINDOWS,
                "windows": self._windows,
                "window_count": lib.NV_SHADOW_WINDOW_COUNT,
            },
        )
        lib.nv_shadow_reset(self.c)
        self._conceded: set[int] = set()
        self.change(config.slots, config.reported, [(0, ADDRESSES - 1)])

    def __enter__(self) -> Shadow:
        return self

    def __exit__(self, *exception: object) -> None:
        self._table_memory.close()

    @property
    def ram(self) -> int:
        """KVM's address of L0's memory; below it level n's addresses are KVM's own."""
        return self._ram

    def attach(self, switched: Any) -> None:
        """Hands the tables to the run loop: `switched` is the cffi `struct nv_switched *`."""
        switched.shadow = self.c
        switched.vm_fd = self._vm.fd
        switched.tables = self._region

    def change(self, slots: Sequence[MemorySlot], reported: Sequence[Span], changed: Sequence[Span]) -> None:
        """Takes level n's new memory and faults, which differ from those before in the ranges `changed` only.

        Raises HostError for read-only memory at addresses that L0's memory has in KVM.
        """
        gone = {page for page in self._conceded if any(first <= page <= last for first, last in changed)}
        self._compile(slots, reported, self._conceded - gone, changed)

    def writable(self, address: int, size: int) -> int | None:
        """KVM's address of level n's memory; None where not all of it is one piece that level n may write."""
        ranges = self._layout.ranges
        at = bisect_right(ranges, address, key=_FIRST) - 1
        if at < 0 or address + size - 1 > ranges[at].last or ranges[at].to < self._ram or ranges[at].to == _WINDOW:
            return None
        return ranges[at].to + address - ranges[at].first if Rights.WRITE in ranges[at].rights else None

    def concede(self, address: int, execute: bool) -> bool:
        """Makes the page a hole, or read-only memory, as if no level claimed its faults; False: that is no help."""
        page = address & -_PAGE
        inside = next((slot for slot in self._slots if 0 <= address - slot.guest_address < slot.size), None)
        if page >= ADDRESSES or (inside is not None and (execute or not inside.readonly)):
            return False
        if page in self._conceded or not any(first <= page <= last for first, last in self._reported):
            return False
        changed = [(page, page + _PAGE - 1)]
        conceded = self._conceded
        if len(conceded) >= self.conceded_max:
            changed += [(one, one + _PAGE - 1) for one in conceded]
            conceded = set()
        self._compile(self._slots, self._reported, conceded | {page}, changed)
        return True

    def _compile(
        self, slots: Sequence[MemorySlot], reported: Sequence[Span], conceded: set[int], changed: Sequence[Span]
    ) -> None:
        faults = minus(reported, [(page, page + _PAGE - 1) for page in conceded])
        layout = shadow_layout(slots, faults, self._ram)
        self._slot_table.link([self._whole, *layout.readonly])
        fields = [(one.first, one.last, one.to, one.rights.value, 0) for one in layout.ranges]
        ranges = ffi.new("struct nv_shadow_range[]", fields)
        # what changed may lie where level n sees nothing of it; C must read the new array all the same
        for first, last in changed or [(0, 0)]:
            lib.nv_shadow_set(self.c, ranges, len(fields), first, last)
        self._slots, self._reported, self._conceded = slots, reported, conceded
        self._layout, self._ranges = layout, ranges

"""SVM or VMX by software, for level n and for what its hypervisors run: native/nested.h with its memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final, Self

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.engines.engine import MsrRange
from nestvmm.engines.given import Given
from nestvmm.engines.msr_filter import spared_msrs
from nestvmm.engines.shadow import Shadow
from nestvmm.engines.switcher import Switcher
from nestvmm.kvm import HostMemory, Vm
from nestvmm.x86.scope import Scope

__all__ = ["Nested"]

_PAGE: Final = 4096


class Nested(ABC):
    """The software SVM or VMX of one vCPU; a context manager that frees its tables' memory.

    slot:    of KVM's memory slots, for the tables
    tables:  their format, NV_SHADOW_*
    levels:  of machine 0's code, of machine 1's, and so on; what is above them follows by one each
    """

    tables: ClassVar[int]

    def __init__(self, vm: Vm, slot: int, switcher: Switcher, memory: HostMemory, levels: Sequence[int]) -> None:
        pages = lib.NV_NESTED_TABLE_COUNT
        self._table_memory = HostMemory((lib.NV_NESTED_SETS - 1) * pages * _PAGE)
        vm.set_memory_region(slot, lib.NV_NESTED_TABLES, self._table_memory.size, self._table_memory.address)
        self.c: Any = ffi.new("struct nv_nested *")
        c = self.c
        self.given = Given(c)
        self._levels = levels
        self._spared: dict[int, Any] = {}
        for depth in range(lib.NV_NESTED_DEPTH):
            beyond = depth - len(levels) + 1
            c.levels[depth] = levels[depth] if beyond <= 0 else levels[-1] + beyond
        c.maps = switcher.place(lib.NV_SWITCHER_NESTED, "uint8_t *")
        c.maps_physical = lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_NESTED
        c.own_ports = switcher.place(lib.NV_SWITCHER_IOPM, "uint8_t *")
        c.own_msrs = switcher.place(lib.NV_SWITCHER_MSRPM, "uint8_t *")
        c.ram, c.ram_size = ffi.cast("uint8_t *", memory.address), memory.size
        for number in range(1, lib.NV_NESTED_SETS):
            shadow = c.tables[number].shadow
            offset = (number - 1) * pages * _PAGE
            shadow.pool = ffi.cast("uint64_t *", self._table_memory.address + offset)
            shadow.physical = lib.NV_NESTED_TABLES + offset
            shadow.pages = pages
            shadow.format = self.tables

    def spare(self, ceilings: Sequence[tuple[int, Scope]]) -> None:
        """Accesses to MSRs that an image cannot have are no exits of its guest's: the processor does them.

        ceilings:  see spared_msrs
        """
        for depth in range(lib.NV_NESTED_DEPTH):
            ranges = spared_msrs(ceilings, self._levels[min(depth, len(self._levels) - 1)])
            if ranges:
                self._spared[depth] = ffi.from_buffer("uint8_t[]", self._msr_map(ranges))
                self.c.spared[depth] = self._spared[depth]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.c.active = ffi.NULL  # no machine has memory any more
        self._table_memory.close()

    def attach(self, shadow: Shadow) -> None:
        """Starts; the engine's own part of its struct is complete."""
        self.c.shadow = shadow.c
        self.c.ram_physical = shadow.ram
        self._init()

    @abstractmethod
    def _init(self) -> None:
        """The vendor's part of `attach`."""

    @abstractmethod
    def _msr_map(self, ranges: Iterable[MsrRange]) -> bytes:
        """The vendor's map of accesses to MSRs that exit: of these."""

    def image_servers(self) -> list[tuple[int, Server]]:
        """For each level of code that this engine was told of: its number, and what takes its guest's exits."""
        last = len(self._levels) - 1

        def claim(depth: int) -> Any:
            return ffi.new("struct nv_nested_claim *", {"nested": self.c, "depth": depth, "beyond": depth == last})

        return [(level, Server(self.c.take, claim(depth))) for depth, level in enumerate(self._levels)]

    def overstrained(self) -> str:
        """Why L0 cannot do what a level asked for; empty: it can."""
        level = self.c.levels[self.c.active.depth]
        if self.c.too_deep:
            return (
                f"level {level} wants to run level {level + 1}; L0 has room for {lib.NV_NESTED_DEPTH} levels of images"
            )
        if self.c.lost:
            return f"a level below level {level} has taken away the memory of the control block that it is run by"
        if self.c.endless:
            return f"the nested page tables of level {level} and of those below lead through too many of each other"
        return ""

    def inject(self, space: int, vector: int | None) -> None:
        """See nestvmm.engines.engine.Engine.inject_above."""
        pending = lib.nv_nested_pending(self.c, space)
        if vector is None:
            lib.nv_pending_nmi(pending)
        else:
            lib.nv_pending_interrupt(pending, vector)

    def intercept(self, space: int, *, interrupts: bool, nmis: bool) -> None:
        """See nestvmm.engines.engine.Engine.intercept_above."""
        claimed = lib.NV_WINDOW_INTERRUPT * interrupts | lib.NV_WINDOW_NMI * nmis
        lib.nv_nested_pending(self.c, space).claimed = claimed

    def request_window(self, space: int, *, nmi: bool) -> None:
        """See nestvmm.engines.engine.Engine.request_window_above."""
        lib.nv_nested_pending(self.c, space).windows |= lib.NV_WINDOW_NMI if nmi else lib.NV_WINDOW_INTERRUPT

    def cpuid_asker(self, level: int) -> Server:
        """See nestvmm.engines.engine.Engine.cpuid_asker."""
        asker = ffi.new("struct nv_nested_cpuid_asker *", {"nested": self.c, "level": level})
        return Server(ffi.addressof(lib, "nv_nested_ask_cpuid"), asker)

    def answered_cpuid(self) -> tuple[int, int, int]:
        """See nestvmm.engines.engine.Engine.answered_cpuid."""
        asked = self.c.active.cpuid
        levels, asked.levels = asked.levels, 0
        return levels, asked.leaf, asked.subleaf

    def counts(self) -> list[tuple[int, int, int, int]]:
        """See nestvmm.engines.engine.Engine.image_counts."""
        c = self.c
        rows = zip(c.levels, c.reflected, c.entered, c.served, strict=True)
        return [row for row in rows if any(row[1:])]

    def read(self, depth: int, address: int, size: int, *, beneath: bool) -> bytes | None:
        """See nestvmm.engines.engine.Engine.read_machine."""
        data = ffi.new("uint8_t[]", size)
        done = lib.nv_nested_copy(self.c, depth, address, data, size, 0, beneath)
        return bytes(ffi.buffer(data)) if done == size else None

    def write(self, depth: int, address: int, data: bytes, *, beneath: bool) -> bool:
        """See nestvmm.engines.engine.Engine.write_machine."""
        buffer = ffi.new("uint8_t[]", data)
        return bool(lib.nv_nested_copy(self.c, depth, address, buffer, len(data), 1, beneath) == len(data))

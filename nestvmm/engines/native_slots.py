"""Level n's memory as C walks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nestvmm._native import ffi

if TYPE_CHECKING:
    from nestvmm.engines.engine import MemorySlot
    from nestvmm.kvm import HostMemory

__all__ = ["native_slots"]


def native_slots(memory: HostMemory, slots: Sequence[MemorySlot]) -> Any:
    """A cffi `struct nv_slot[]` of native/paging.h; the memory must stay open as long as it is used."""
    found: Any = ffi.new("struct nv_slot[]", len(slots))
    for c, slot in zip(found, slots, strict=True):
        c.guest, c.size, c.readonly = slot.guest_address, slot.size, slot.readonly
        c.host = ffi.cast("uint8_t *", memory.address + slot.offset)
    return found

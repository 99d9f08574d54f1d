"""A level with SVM by software in plain memory, for tests of the C code alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.engines.svm_rules import limit
from nestvmm.kvm import CpuidEntry

PAGE = 0x1000
PAGES, GUARDS = 16, 4  # of the level, and of L0's memory on either side
BLOCK = 3 * PAGE
INVALID = (1 << 64) - 1
VMRUN = 0x80
LEVEL = lib.NV_SHADOW_WINDOWS - (1 << 30) + GUARDS * PAGE
RIP = 0x1234
ENTRIES = [
    CpuidEntry(function=0x80000001, edx=1 << 11 | 1 << 20 | 1 << 29),  # SYSCALL, NX, long mode
    CpuidEntry(function=0x80000008, eax=40),
]


@dataclass
class World:
    """One level in memory of L0's that is larger; `keep` is what C points to."""

    nested: Any
    svm: Any
    memory: Any
    keep: list[Any]

    @property
    def level(self) -> Any:
        return self.memory + GUARDS * PAGE

    def run(self, data: bytes) -> Any:
        """VMRUN of a block of these bytes; gives the block in the level's memory."""
        ffi.memmove(self.level + BLOCK, data, len(data))
        self.svm.switched.mailbox.regs[0] = BLOCK
        event = ffi.new("struct nv_event *", {"raw": VMRUN, "advance": 3})
        assert lib.nv_nested_serve(self.svm, 0, event) == lib.NV_HANDLED
        return ffi.cast("struct nv_vmcb *", self.level + BLOCK)

    def around(self) -> bytes:
        """All memory but the block."""
        whole = bytes(ffi.buffer(self.memory, (PAGES + 2 * GUARDS) * PAGE))
        at = GUARDS * PAGE + BLOCK
        return whole[:at] + whole[at + PAGE :]


def world() -> World:
    vcpu, svm, nested, paging, mailbox, shadow = (
        ffi.new(f"struct nv_{name} *") for name in ("vcpu", "svm", "nested", "paging", "mailbox", "shadow")
    )
    size = PAGES * PAGE
    memory = ffi.new("uint8_t[]", b"\xa5" * ((PAGES + 2 * GUARDS) * PAGE))
    pool, tables = ffi.new("uint64_t[]", 16 * 512), ffi.new("uint64_t[]", 16 * 512)
    maps, zeros = ffi.new("uint8_t[]", lib.NV_NESTED_DEPTH * lib.NV_NESTED_MAPS), ffi.new("uint8_t[]", 0x3000)
    windows = ffi.new("uint64_t[]", lib.NV_SHADOW_WINDOW_COUNT)
    # holes have windows, as nestvmm.engines.shadow makes them: what no range has a Python level withholds
    hole = size, (1 << lib.NV_SHADOW_ADDRESS_BITS) - 1, lib.NV_SHADOW_WINDOW, 7, 0
    ranges = ffi.new("struct nv_shadow_range[]", [(0, size - 1, LEVEL, 7, 0), hole])
    slots = ffi.new("struct nv_slot[]", [(0, size, memory + GUARDS * PAGE, 0)])
    block = ffi.new("struct nv_vmcb *", {"efer": 0x1500, "cr0": 0x80000031, "cr4": 0x20, "cs": {"attributes": 0xA9B}})
    lib.nv_paging_init(paging, slots, 1, 40)
    shadow.pool, shadow.physical, shadow.pages = pool, lib.NV_SHADOW_TABLES, 16
    shadow.largest, shadow.windows, shadow.window_count = 2, windows, lib.NV_SHADOW_WINDOW_COUNT
    shadow.window = lib.NV_SHADOW_WINDOWS
    lib.nv_shadow_reset(shadow)
    lib.nv_shadow_set(shadow, ranges, 2, 0, INVALID)
    nested.tables[1].shadow.pool, nested.tables[1].shadow.pages = tables, 16
    nested.shadow, nested.maps, nested.own_ports, nested.own_msrs = shadow, maps, zeros, zeros
    nested.ram, nested.ram_physical = memory, LEVEL - GUARDS * PAGE
    nested.ram_size = (PAGES + 2 * GUARDS) * PAGE
    svm.nested, svm.block = nested, block
    svm.switched.mailbox, svm.switched.shadow, svm.switched.paging = mailbox, shadow, paging
    limit(ffi.addressof(svm, "limits"), ENTRIES)
    lib.nv_svm_init(vcpu, svm, -1, ffi.NULL, 1)
    nested.visible = 1
    lib.nv_nested_init(nested)
    nested.machines[0].svme = 1
    mailbox.regs[lib.NV_REG_RIP] = RIP
    keep = [vcpu, paging, mailbox, shadow, pool, tables, maps, zeros, windows, ranges, slots, block]
    return World(nested, svm, memory, keep)


def sound_block() -> Any:
    """A control block that breaks no rule of VMRUN's."""
    block = ffi.new("struct nv_vmcb *")
    block.intercept[4] = 1
    block.asid = 1
    block.efer, block.cr4, block.cr0 = 0x1500, 0x20, 0x80000031
    block.dr7, block.dr6 = 0x400, 0xFFFF0FF0
    block.guest_pat = 0x0007040600070406
    block.cs.attributes = 0xA9B
    return block


def sound() -> bytearray:
    """Its bytes."""
    return bytearray(ffi.buffer(sound_block()))

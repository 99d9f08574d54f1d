"""VMRUN of any block, on plain memory: it runs its guest on L0's terms or is refused, and touches nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nested_world import BLOCK, GUARDS, INVALID, LEVEL, PAGE, PAGES, RIP, VMRUN, sound, world

from nestvmm._native import ffi, lib

SIZE = ffi.sizeof("struct nv_vmcb")
STATE = ("cr0", "cr2", "cr3", "cr4", "dr6", "dr7", "efer")


WORDS = st.one_of(
    st.sampled_from([0, 1, PAGE, BLOCK, PAGES * PAGE, LEVEL, LEVEL - PAGE, 1 << 31, 1 << 40, 1 << 51, INVALID]),
    st.integers(0, INVALID),
)


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """A sound block with a few words changed, or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(min_size=SIZE, max_size=SIZE))
    data = sound()
    for at, word in draw(st.lists(st.tuples(st.integers(0, SIZE // 8 - 1), WORDS), max_size=4)):
        data[8 * at : 8 * at + 8] = word.to_bytes(8, "little")
    return bytes(data)


def privilege(told: Any) -> int:
    """Real and virtual 8086 mode have their own (AMD APM vol. 2, 15.5.1)."""
    if not told.cr0 & 1:
        return 0
    return 3 if told.rflags & 1 << 17 else told.cpl & 3


def reads_pointers(told: Any) -> bool:
    """Of PAE without nested paging: here there is nothing but such as have reserved bits."""
    return bool(not told.nested_paging & 1 and told.cr0 >> 31 & 1 and told.cr4 >> 5 & 1 and not told.efer >> 8 & 1)


@given(blocks())
@settings(max_examples=300)
def test_any_block_runs_or_is_refused(data: bytes) -> None:
    here = world()
    before = here.around()
    told = ffi.from_buffer("struct nv_vmcb *", data)
    block = here.run(data)
    active = here.nested.active
    if not lib.nv_svm_valid(ffi.addressof(here.svm, "limits"), told) or reads_pointers(told):
        assert (active.depth, active.gif, block.exit_code) == (0, 0, INVALID)
        assert here.svm.switched.mailbox.regs[lib.NV_REG_RIP] == RIP + 3
    else:
        assert (active.depth, active.parent.gif, here.nested.entered[0]) == (1, 1, 1)
        assert [getattr(here.svm.block, name) for name in STATE] == [getattr(told, name) for name in STATE]
        assert here.svm.switched.mailbox.regs[lib.NV_REG_RIP] == told.rip
        assert here.svm.block.cpl == privilege(told)
    assert here.around() == before
    assert not any((here.nested.lost, here.nested.too_deep, here.nested.endless))


@pytest.mark.parametrize("address", [PAGES * PAGE, 1 << 40, BLOCK + 8, LEVEL, LEVEL - GUARDS * PAGE])
def test_a_block_outside_the_levels_memory_is_a_general_protection_fault(address: int) -> None:
    here = world()
    here.svm.switched.mailbox.regs[0] = address
    event = ffi.new("struct nv_event *", {"raw": VMRUN, "advance": 3})
    before = here.around()
    assert lib.nv_nested_serve(here.svm, 0, event) == lib.NV_HANDLED
    assert here.svm.injection & 0xFFFFFFFF == 1 << 31 | 1 << 11 | 3 << 8 | 13
    assert (here.nested.active.depth, here.around()) == (0, before)

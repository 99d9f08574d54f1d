"""What waits for level n: interrupts by priority, and NMIs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nestvmm._native import ffi, lib


@given(st.lists(st.integers(0, 255)))
def test_interrupts_come_by_priority_and_each_once(vectors: list[int]) -> None:
    pending = ffi.new("struct nv_pending *")
    for vector in vectors:
        lib.nv_pending_interrupt(pending, vector)
    taken = []
    while (vector := lib.nv_pending_highest(pending)) >= 0:
        others = set(vectors) - set(taken) - {vector}
        assert lib.nv_pending_another(pending, vector) == bool(others)
        assert lib.nv_pending_another(pending, -1) == lib.nv_pending_any(pending) == 1
        lib.nv_pending_taken(pending, vector)
        taken.append(vector)
    assert taken == sorted(set(vectors), reverse=True)
    assert lib.nv_pending_any(pending) == 0


def test_an_nmi_waits_too() -> None:
    pending = ffi.new("struct nv_pending *")
    lib.nv_pending_nmi(pending)
    assert (lib.nv_pending_any(pending), lib.nv_pending_highest(pending)) == (1, -1)
    lib.nv_pending_nmi_taken(pending)
    assert lib.nv_pending_any(pending) == 0

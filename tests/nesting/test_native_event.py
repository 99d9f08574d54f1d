"""The C event's fields, read in one go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nestvmm._native import ffi
from nestvmm.nesting.native_event import event_reader

SIZE = ffi.sizeof("struct nv_event")


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_each_field_is_what_cffi_reads(content: bytes) -> None:
    vcpu = ffi.new("struct nv_vcpu *")
    event = vcpu.event
    read = event_reader(event)
    ffi.memmove(ffi.addressof(event), content, SIZE)
    assert read() == (
        event.qualifier,
        event.value,
        event.info,
        event.raw,
        event.count,
        event.reason,
        event.slot,
        event.direction,
        event.size,
        event.level,
        event.instruction_length,
        bytes(event.instruction),
        event.length,
        event.space,
    )

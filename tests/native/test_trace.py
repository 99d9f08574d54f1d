"""The trace ring."""

from nestvmm._native import ffi, lib


def test_records_are_whole_numbered_and_hold_no_pointer() -> None:
    records = ffi.new("struct nv_trace_record[]", 4)
    trace = ffi.new("struct nv_trace *", {"record": records, "size": 4})
    data = ffi.new("uint8_t[]", b"A")
    for i in range(3):
        fields = {
            "reason": lib.NV_REASON_IO,
            "qualifier": 0x3F8 + i,
            "value": 0x41,
            "count": 1,
            "size": 1,
            "data": data,
        }
        lib.nv_trace_add(trace, ffi.new("struct nv_event *", fields), 1000 + i)
    assert (trace.head, trace.tail) == (3, 0)
    assert [(r.sequence, r.done, r.event.qualifier, r.event.value) for r in records] == [
        (0, 1000, 0x3F8, 0x41),
        (1, 1001, 0x3F9, 0x41),
        (2, 1002, 0x3FA, 0x41),
        (0, 0, 0, 0),
    ]
    assert all(record.event.data == ffi.NULL for record in records)


def test_the_ring_goes_round() -> None:
    records = ffi.new("struct nv_trace_record[]", 4)
    trace = ffi.new("struct nv_trace *", {"record": records, "size": 4})
    for i in range(6):
        lib.nv_trace_add(trace, ffi.new("struct nv_event *", {"qualifier": i}), 0)
    assert [record.sequence for record in records] == [4, 5, 2, 3]
    assert trace.head == 6

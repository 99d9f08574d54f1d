"""The layouts that C fills and Python reads in place: an accidental change of one shows here."""

import pytest

from nestvmm._native import ffi, lib

EVENT = {
    "qualifier": (0, 8),
    "value": (8, 8),
    "info": (16, 8),
    "data": (24, 8),
    "ticks": (32, 8),
    "raw": (40, 4),
    "count": (44, 4),
    "reason": (48, 2),
    "claim": (50, 2),
    "slot": (52, 2),
    "direction": (54, 1),
    "size": (55, 1),
    "level": (56, 1),
    "instruction_length": (57, 1),
    "instruction": (58, 15),
    "length": (73, 1),
    "space": (74, 1),
    "advance": (75, 1),
    "fault": (76, 1),
    "retry": (77, 1),
    "served": (78, 1),
    "handler": (79, 1),
}


def layout(name: str) -> dict[str, tuple[int, int]]:
    """Offset and size of each field, in bytes."""
    return {field: (info.offset, ffi.sizeof(info.type)) for field, info in ffi.typeof(name).fields}


def test_event() -> None:
    assert layout("struct nv_event") == EVENT
    assert ffi.sizeof("struct nv_event") == 80


def test_an_event_starts_and_ends_within_two_cache_lines() -> None:
    assert ffi.sizeof("struct nv_event") <= 2 * 64


def test_table_entries() -> None:
    assert layout("struct nv_claim") == {
        "next": (0, 2),
        "slot": (2, 2),
        "server": (4, 2),
        "level": (6, 1),
        "fallback": (7, 1),
    }
    assert layout("struct nv_range") == {"first": (0, 8), "last": (8, 8), "claim": (16, 4), "pad": (20, 4)}
    assert layout("struct nv_server") == {"serve": (0, 8), "device": (8, 8), "base": (16, 8)}
    assert layout("struct nv_ranges") == {"range": (0, 8), "count": (8, 4), "pad": (12, 4)}
    assert ffi.sizeof("struct nv_table") == 32 + lib.NV_REASONS * 2 * 16


def test_records() -> None:
    assert layout("struct nv_counter") == {
        "count": (0, 8),
        "ticks": (8, 8),
        "served": (16, 8),
        "begun": (24, 8),
        "histogram": (32, 8 * lib.NV_BUCKETS),
    }
    assert layout("struct nv_unclaimed_row") == {
        "qualifier": (0, 8),
        "count": (8, 8),
        "reason": (16, 2),
        "direction": (18, 1),
    }


@pytest.mark.parametrize(
    ("constant", "value"), [("NV_READ", 0), ("NV_WRITE", 1), ("NV_EXECUTE", 2), ("NV_DECLINED", 0), ("NV_HANDLED", 1)]
)
def test_constants(constant: str, value: int) -> None:
    assert getattr(lib, constant) == value

"""Reads the C event in one go: by cffi, one field costs as much as all of them do here."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from nestvmm._native import ffi

__all__ = ["event_reader"]

# What a handler sees of an event, and whose turn it is, in the order of native/event.h.
_FIELDS = (
    "qualifier",
    "value",
    "info",
    "raw",
    "count",
    "reason",
    "slot",
    "direction",
    "size",
    "level",
    "instruction_length",
    "instruction",
    "length",
    "space",
)
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _layout() -> struct.Struct:
    """The wanted fields, each at its offset."""
    members = dict(ffi.typeof("struct nv_event").fields)
    text = "<"
    for name in _FIELDS:
        size = ffi.sizeof(members[name].type)
        text += "x" * (members[name].offset - struct.calcsize(text)) + _CODES.get(size, f"{size}s")
    return struct.Struct(text)


def event_reader(event: Any) -> Callable[[], tuple[Any, ...]]:
    """A function that gives the fields of a `struct nv_event` that are needed for its handler.

    These are qualifier, value, info, raw, count, reason, slot, direction, size, level, instruction_length (all int),
    instruction (15 bytes), length and space. The event is part of a `struct nv_vcpu`: the caller keeps that alive.
    """
    return partial(_layout().unpack_from, ffi.buffer(ffi.addressof(event)))

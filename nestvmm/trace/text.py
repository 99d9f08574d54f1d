"""What a trace writes of each event of one site: JSON with holes, which native/trace_writer.c fills in."""

from __future__ import annotations

import json
import re
from enum import IntEnum
from typing import Final

from nestvmm._native import lib

__all__ = ["Hole", "Us", "ns", "text_with_holes", "without_marks"]

_IN_STRING: Final = 0xE000
_WHOLE: Final = 0xE100
_PRIVATE: Final = re.compile("[\ue000-\ue1ff]")
_MARK: Final = re.compile(r'"\\ue1([0-9a-f]{2})"|\\ue0([0-9a-f]{2})')


class _Mark(IntEnum):
    """Holes by their numbers in native/trace_writer.h."""

    @property
    def mark(self) -> str:
        """Stands for a JSON value."""
        return chr(_WHOLE + self)


class Hole(_Mark):
    """What can be filled in besides times; in JSON a number, IN_C a boolean."""

    SEQUENCE = lib.NV_HOLE_SEQUENCE
    TICKS = lib.NV_HOLE_TICKS
    QUALIFIER = lib.NV_HOLE_QUALIFIER
    QUALIFIER_HEX = lib.NV_HOLE_QUALIFIER_HEX
    VALUE = lib.NV_HOLE_VALUE
    COUNT = lib.NV_HOLE_COUNT
    INFO = lib.NV_HOLE_INFO
    IN_C = lib.NV_HOLE_IN_C
    ENTRIES = lib.NV_HOLE_ENTRIES

    @property
    def string_mark(self) -> str:
        """Stands for a part of a JSON string."""
        return chr(_IN_STRING + self)


class Us(_Mark):
    """Times in microseconds to the nanosecond: AT_* since the start of the trace, the others how long."""

    AT_ENTERED = lib.NV_HOLE_AT_ENTERED
    AT_EXIT = lib.NV_HOLE_AT_EXIT
    AT_ROUTED = lib.NV_HOLE_AT_ROUTED
    GUEST = lib.NV_HOLE_GUEST
    DECODE = lib.NV_HOLE_DECODE
    ROUTE = lib.NV_HOLE_ROUTE
    HANDLE = lib.NV_HOLE_HANDLE
    COMPLETE = lib.NV_HOLE_COMPLETE
    TOTAL = lib.NV_HOLE_TOTAL


def ns(span: Us) -> str:
    """Stands for a JSON value: how long in nanoseconds; not for AT_*."""
    return chr(_WHOLE + span + lib.NV_HOLE_IN_NS)


def text_with_holes(value: object) -> bytes:
    """One line of JSON whose marks are holes; strings from outside must have been through `without_marks`."""
    # blanks would be an eighth of the file
    text = json.dumps(value, separators=(",", ":"))
    return _MARK.sub(lambda found: chr(int(found[1] or found[2], 16)), text).encode("latin-1")


def without_marks(text: str, longest: int = 200) -> str:
    """A name from outside, such as a class's, as a trace may have it."""
    return _PRIVATE.sub("?", text[:longest])

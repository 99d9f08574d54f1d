"""Reads traces again, event by event, whatever their size: both formats of nestvmm.trace.

A trace of a run that was killed may end within a line; what is whole counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nestvmm.errors import UsageError
from nestvmm.trace.chrome import EXIT

__all__ = ["Traced", "read_trace"]

_LINE_MAX: Final = 1 << 16
_PARTS: Final = ("guest", "decode", "route", "handle", "complete")


@dataclass(frozen=True, slots=True)
class Traced:
    """One event of a trace; times in nanoseconds.

    level, who:  the handler
    guest:       from level n's entry to its exit: the world switch, and what level n did
    total:       from there until the answer was level n's; decode, route, handle and complete are its parts
    """

    reason: str
    qualifier: int
    direction: str
    level: int
    who: str
    in_c: bool
    instruction: str
    total: int
    guest: int
    decode: int
    route: int
    handle: int
    complete: int


def read_trace(path: Path) -> Iterator[Traced]:
    """The events in order. Raises UsageError for a file that cannot be read, or that is not a trace of nestvmm."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LINE_MAX):
                number += 1
                found = _event(path, number, line)
                if found is not None:
                    yield found
    except OSError as error:
        raise UsageError(f"trace file {path}: {error.strerror}") from None


def _event(path: Path, number: int, line: bytes) -> Traced | None:
    """What a line says; None for one that is no exit, or was cut off."""
    text = line.strip().rstrip(b",")
    if not text.startswith(b"{") or not text.endswith(b"}"):
        cut_off = not line.endswith(b"\n") and len(line) < _LINE_MAX
        ours = text.startswith(b"{") or text == b"]"
        if text in (b"]}", b"") or (cut_off and ours) or text.startswith(b'{"displayTimeUnit"'):
            return None
        raise _not_ours(path, number)
    try:
        fields = json.loads(text)
        if "ph" in fields:
            return _slice(fields) if fields.get("cat") == EXIT else None
        return _line(fields)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise _not_ours(path, number) from None


def _not_ours(path: Path, number: int) -> UsageError:
    return UsageError(f"{path}:{number}: not a trace that `nestvmm run --trace` wrote")


def _line(fields: Mapping[str, Any]) -> Traced:
    return _traced(fields, fields["handler"], int(fields["qualifier"]), [fields[f"{part}_ns"] for part in _PARTS])


def _slice(fields: Mapping[str, Any]) -> Traced:
    arguments = fields["args"]
    parts = [arguments[f"{part}_us"] * 1000 for part in _PARTS]
    return _traced(arguments, arguments["level"], int(arguments["qualifier"], 16), parts)


def _traced(fields: Mapping[str, Any], level: int, qualifier: int, parts: list[float]) -> Traced:
    whole = [round(part) for part in parts]
    names = ("reason", "direction", "who", "instruction")
    reason, direction, who, instruction = (str(fields[name]) for name in names)
    return Traced(
        reason, qualifier, direction, int(level), who, bool(fields["in_c"]), instruction, sum(whole[1:]), *whole
    )

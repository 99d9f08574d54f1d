"""A run's events as JSON lines, drained from the ring that the C run loop fills."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from nestvmm._native import ffi
from nestvmm.errors import HostError, UsageError
from nestvmm.nesting import Clock, Tower
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["RING", "JsonLines"]

#: Records that the ring holds before the run pauses to write them out; a power of two.
RING = 4096


class JsonLines:
    """Writes one line for each event; a context manager around the run. Raises UsageError if the file cannot be
    written.

    A line has: n (0, 1, 2 ...), ticks (TSC at the exit), ns (to its completion), reason, raw (the engine's code),
    level, qualifier, direction, size, count, value, handler (its level), who, in_c.
    """

    def __init__(self, path: Path, tower: Tower, clock: Clock) -> None:
        try:
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"trace file {path}: {error.strerror}") from None
        self._path = path
        self._tower = tower
        self._clock = clock
        self._ring: Any = ffi.new("struct nv_trace_record[]", RING)
        self._trace = tower.engine.vcpu.trace
        self._trace.record = self._ring
        self._trace.size = RING
        self._trace.head = self._trace.tail = 0

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._writing(), self._file:
            try:
                self.drain()
            finally:
                self._trace.record = ffi.NULL

    def drain(self) -> None:
        """Writes out what the ring holds; raises HostError when the file takes no more."""
        scale = self._clock.ns_per_tick()
        with self._writing():
            for sequence in range(self._trace.tail, self._trace.head):
                record = self._ring[sequence % RING]
                self._file.write(json.dumps(self._line(record, scale)) + "\n")
        self._trace.tail = self._trace.head

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HostError(f"trace file {self._path}: {error.strerror}") from None

    def _line(self, record: Any, scale: float) -> dict[str, object]:
        event = record.event
        claim = self._tower.flat.claim(event.slot)
        return {
            "n": record.sequence,
            "ticks": event.ticks,
            "ns": round((record.done - event.ticks) * scale),
            "reason": ExitReason(event.reason).label,
            "raw": event.raw,
            "level": event.level,
            "qualifier": event.qualifier,
            "direction": Direction(event.direction).name.lower(),
            "size": event.size,
            "count": event.count,
            "value": event.value & (1 << 8 * event.size) - 1 if event.size else event.value,
            "handler": event.handler,
            "who": "unclaimed" if claim is None else claim.who,
            "in_c": bool(event.served),
        }

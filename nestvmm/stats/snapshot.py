"""The counters of a run at one moment, and what happened between two of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.nesting import Clock, Tower
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Meter", "Rates", "Row", "Snapshot"]


@dataclass(frozen=True, slots=True)
class Row:
    """Events of one reason that one handler handled, since the start.

    level, who:  the handler; in_c: how many never entered Python
    seconds:     what L0 and the handler took for them, summed
    """

    level: int
    who: str
    reason: str
    count: int
    in_c: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of a run's counters.

    time:     of the clock on the wall, in seconds since 1970
    seconds:  since the run's start
    rows:     the highest level first, then the most frequent
    """

    pid: int
    engine: str
    height: int
    time: float
    seconds: float
    exits: int
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Snapshot:
        """What `as_dict` gave. Raises KeyError or TypeError for anything else."""
        rows = tuple(Row(**row) for row in data["rows"])
        return cls(**{**data, "rows": rows})


class Meter:
    """Takes snapshots of a tower, from any thread, while its vCPU runs: each counter as it was between two events."""

    def __init__(self, tower: Tower, clock: Clock) -> None:
        self._tower = tower
        self._clock = clock
        self._start = time.monotonic()

    def read(self) -> Snapshot:
        """The counters now."""
        tower = self._tower
        flat, counters = tower.flat, tower.counters
        scale = self._clock.ns_per_tick() / 1e9
        sums: dict[tuple[int, str, str], list[int]] = {}
        # a tower that is renewed just now may have the counters of another table, whose slots are the same
        counter = ffi.new("struct nv_counter *")
        for slot in range(min(flat.slots, len(counters))):
            lib.nv_counter_read(ffi.addressof(counters, slot), counter)
            if not counter.count:
                continue
            claim = flat.claim(slot)
            if claim is None:
                key = 0, "unclaimed", ExitReason(slot).label
            else:
                key = claim.level, claim.who, claim.scope.reason.label
            of = sums.setdefault(key, [0, 0, 0])
            of[0] += counter.count
            of[1] += counter.served
            of[2] += counter.ticks
        rows = [Row(*key, count, served, ticks * scale) for key, (count, served, ticks) in sums.items()]
        rows.sort(key=lambda row: (-row.level, -row.count, row.reason, row.who))
        return Snapshot(
            pid=os.getpid(),
            engine=tower.engine.name,
            height=tower.height,
            time=time.time(),
            seconds=time.monotonic() - self._start,
            exits=sum(row.count for row in rows),
            rows=tuple(rows),
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened from one snapshot to a later one of the same run.

    rows: for each row of `now`: events a second, and the mean time of one in microseconds; None: there was none
    """

    now: Snapshot
    exits: float
    rows: tuple[tuple[float, float | None], ...]

    @classmethod
    def between(cls, before: Snapshot | None, now: Snapshot) -> Rates:
        """Before: None for the start of the run."""
        seconds = max(now.seconds - (before.seconds if before else 0.0), 1e-9)
        known = {(row.level, row.who, row.reason): row for row in before.rows} if before else {}
        rows = []
        for row in now.rows:
            old = known.get((row.level, row.who, row.reason))
            count = row.count - (old.count if old else 0)
            time_taken = row.seconds - (old.seconds if old else 0.0)
            rows.append((count / seconds, max(time_taken, 0.0) / count * 1e6 if count > 0 else None))
        return cls(now, (now.exits - (before.exits if before else 0)) / seconds, tuple(rows))

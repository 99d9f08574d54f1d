"""The account of a run: who handled which events, how many, and how long L0 and its handlers took for them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.nesting.designation import Claim
from nestvmm.nesting.tower import Tower
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier

__all__ = ["Account", "Clock", "ImageRow", "Row", "Unclaimed"]


class Clock:
    """Converts TSC ticks to nanoseconds by what both clocks counted since this object was made."""

    def __init__(self) -> None:
        self._ticks = int(lib.nv_ticks())
        self._time = time.monotonic_ns()

    def age_ns(self) -> int:
        """Nanoseconds since then."""
        return time.monotonic_ns() - self._time

    def ns_per_tick(self) -> float:
        """Nanoseconds of one tick."""
        ticks = int(lib.nv_ticks()) - self._ticks
        return (time.monotonic_ns() - self._time) / ticks if ticks > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """Events of one reason and qualifier range that one level handled; latencies in nanoseconds.

    level, who:   the handler; a latency is from the exit's arrival in L0 to the answer's completion
    p99_ns:       99 % of the events took at most this long (to within 1/8)
    served_in_c:  how many of them never entered Python
    """

    reason: str
    qualifier: str
    count: int
    level: int
    who: str
    mean_ns: float
    p99_ns: float
    served_in_c: int


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """Accesses that no level claimed and L0 answered as an empty bus (MSRs: by #GP)."""

    reason: str
    qualifier: str
    direction: str
    count: int


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A level of machine code that used SVM or VMX.

    exits:     of its guest and what that runs, that went to it
    entries:   how often it entered its guest: VMRUN, or VMLAUNCH and VMRESUME
    served:    its other instructions of these, which L0 did
    """

    level: int
    who: str
    exits: int
    entries: int
    served: int


@dataclass(frozen=True, slots=True)
class Account:
    """All of it.

    code:         the levels of machine code: n, and with images theirs
    exits:        every exit of theirs
    seconds:      wall-clock time from start to end
    output_lost:  bytes of console output that nobody took
    """

    height: int
    engine: str
    exits: int
    seconds: float
    code: tuple[int, ...]
    rows: tuple[Row, ...]
    images: tuple[ImageRow, ...]
    unclaimed: tuple[Unclaimed, ...]
    unclaimed_lost: int
    output_lost: int

    @classmethod
    def of(cls, tower: Tower, clock: Clock, seconds: float) -> Account:
        """The account of a tower that ran."""
        scale = clock.ns_per_tick()
        rows = []
        for slot in range(tower.flat.slots):
            counter = tower.counters[slot]
            if counter.count:
                rows.append(_row(slot, tower.flat.claim(slot), counter, scale))
        rows.sort(key=lambda row: (-row.level, row.reason, row.qualifier))
        unclaimed = [_unclaimed(row) for row in tower.unclaimed.row if row.count]
        unclaimed.sort(key=lambda row: (-row.count, row.reason, row.qualifier))
        return cls(
            height=tower.height,
            engine=tower.engine.name,
            exits=int(tower.engine.vcpu.exits),
            seconds=seconds,
            code=tower.spec.code,
            rows=tuple(rows),
            images=tuple(ImageRow(row[0], tower.name_of(row[0]), *row[1:]) for row in tower.engine.image_counts()),
            unclaimed=tuple(unclaimed),
            unclaimed_lost=int(tower.unclaimed.lost),
            output_lost=tower.platform.lost + sum(hypervisor.lost for hypervisor in tower.hypervisors),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _row(slot: int, claim: Claim | None, counter: Any, scale: float) -> Row:
    reason = ExitReason(slot) if claim is None else claim.scope.reason
    return Row(
        reason=reason.label,
        qualifier="unclaimed" if claim is None else claim.scope.label,
        count=int(counter.count),
        level=0 if claim is None else claim.level,
        who="L0 default" if claim is None else claim.who,
        mean_ns=counter.ticks / counter.count * scale,
        p99_ns=_quantile(counter, 0.99) * scale,
        served_in_c=int(counter.served),
    )


def _quantile(counter: Any, quantile: float) -> int:
    """The upper edge, in ticks, of the bucket that holds the quantile."""
    histogram = ffi.unpack(counter.histogram, len(counter.histogram))
    wanted = quantile * counter.count
    seen = 0
    for bucket, count in enumerate(histogram):
        seen += count
        if seen >= wanted:
            return int(lib.nv_bucket_floor(bucket + 1))
    return 0


def _unclaimed(row: Any) -> Unclaimed:
    reason = ExitReason(row.reason)
    has_qualifier = REASONS[reason].qualifier is not Qualifier.NONE
    return Unclaimed(
        reason.label,
        f"{row.qualifier:#x}" if has_qualifier else "*",
        Direction(row.direction).name.lower(),
        int(row.count),
    )

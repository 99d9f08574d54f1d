"""What an exit costs by depth, flat: the guest at level 1 to 8, hypervisor images at all levels below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final

from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.exits import MARK_LEAF, OWN_PORT, hypercall
from nestvmm.bench.row import FLAT, Row, compare
from nestvmm.bench.rtt import IMAGES, on_images

__all__ = ["HEIGHTS", "FlatDepth"]

HEIGHTS: Final = tuple(range(1, 9))
_COUNT: Final = 20
_GOAL: Final = 1.10


@dataclass(frozen=True, slots=True)
class FlatDepth:
    """The case: each exit goes to the image just below the guest; at level 1, to L0."""

    name: ClassVar[str] = "depth"
    about: ClassVar[str] = "an exit to the image below the guest, by the guest's level; level 1: to L0"

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One for each engine that runs images."""
        for engine in choice.engines:
            if engine in IMAGES:
                yield Step(f"{engine}, flat", partial(_measure, choice, engine))


def _measure(choice: Choice, engine: str) -> list[Row]:
    rows = []
    for kind in ("cpuid", "hypercall", "port"):
        first: Row | None = None
        for height in choice.heights or HEIGHTS:
            if kind == "hypercall" and height == 1:
                continue
            row = _row(choice, engine, kind, height)
            # level 1's exits are not an image's
            rows.append(row if first is None else compare(row, first, _GOAL))
            first = row if first is None and height > 1 else first
    return rows


def _row(choice: Choice, engine: str, kind: str, height: int) -> Row:
    owner = height - 1
    words = {
        "cpuid": f"cpuid at={MARK_LEAF + owner:#x}",
        "hypercall": f"{hypercall(engine)} at={owner}",
        "port": f"port-in at={OWN_PORT + owner:#x}",
    }
    figures = on_images(
        choice.guests, words[kind], runs=choice.runs or RUNS, count=_COUNT, height=height, engine=engine
    )
    row = Row(
        "depth",
        f"{kind}, {engine}, L{height}, {FLAT}",
        engine=engine,
        level=height,
        mode=FLAT,
        clock="guest",
        runs=figures.guest,
    )
    handler = "C" if height == 1 else "image"
    return replace(row, handler=handler, handler_level=owner, us_per_unit=choice.us_per_cycle)

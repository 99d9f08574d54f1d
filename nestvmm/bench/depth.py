"""What an exit costs by the guest's level, flat and as a cascade: hypervisor images at all levels below.

The same images run twice: with the SVM or VMX instructions of all levels designated to L0, and with those of the
levels above 1 designated to level 1, so that each hypervisor nests the next by itself. At level 1 there is no image: L0
answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final

from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.exits import MARK_LEAF, OWN_PORT, hypercall
from nestvmm.bench.goals import DEPTH
from nestvmm.bench.row import CASCADE, FLAT, Row, compare
from nestvmm.bench.rtt import IMAGES, on_images

__all__ = ["KINDS", "Depth"]

KINDS: Final = ("cpuid", "hypercall", "port")
_HEIGHTS: Final = {"svm": range(1, 9), "vmx": range(1, 5)}
# By VMX a cascade grows by the level some fifteen times as much as by SVM: VMREAD and VMWRITE exit, a field each.
_CASCADES: Final = {"svm": range(2, 9), "vmx": range(2, 4)}
# Exits in a run: one through seven levels takes long.
_COUNTS: Final = {FLAT: 20, CASCADE: 5}


@dataclass(frozen=True, slots=True)
class Depth:
    """The case: each exit is for the image just below the guest."""

    name: ClassVar[str] = "depth"
    about: ClassVar[str] = (
        "an exit to the hypervisor image below the guest, by the guest's level: flat, and as a cascade"
    )

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One for each kind of exit, and engine that runs images."""
        for engine in choice.engines:
            if engine in IMAGES:
                for kind in KINDS:
                    yield Step(f"{engine}, {kind}", partial(_measure, choice, engine, kind))


def _measure(choice: Choice, engine: str, kind: str) -> list[Row]:
    """Flat figures are compared with the first that an image answers, cascades with the flat one of their level."""
    rows = []
    first: Row | None = None
    for height in choice.heights or _HEIGHTS[engine]:
        if kind == "hypercall" and height == 1:
            continue  # nobody has one there
        flat = _row(choice, engine, kind, height, FLAT)
        rows.append(flat if first is None else compare(flat, first, DEPTH.most))
        if height == 1:
            continue
        first = first or flat
        if height in (choice.heights or _CASCADES[engine]):
            rows.append(compare(_row(choice, engine, kind, height, CASCADE), flat))
    return rows


def _row(choice: Choice, engine: str, kind: str, height: int, mode: str) -> Row:
    owner = height - 1
    words = {
        "cpuid": f"cpuid at={MARK_LEAF + owner:#x}",
        "hypercall": f"{hypercall(engine)} at={owner}",
        "port": f"port-in at={OWN_PORT + owner:#x}",
    }
    figures = on_images(
        choice.guests,
        words[kind],
        runs=choice.runs or RUNS,
        count=_COUNTS[mode],
        height=height,
        engine=engine,
        cascade=mode == CASCADE,
    )
    what = f"{kind}, {engine}, L{height}, {mode}"
    row = Row("depth", what, engine=engine, level=height, mode=mode, clock="guest", runs=figures.guest)
    handler = "C" if height == 1 else "image"
    return replace(row, handler=handler, handler_level=owner, us_per_unit=choice.us_per_cycle)

"""A world switch alone, and round trips of CPUID through the switcher: in C, in Python, and up towers.

Two bare loops stand beside them (svm_loop.py). The first is what a program does that lets the nested guest share the
page tables of its host; KVM write-protects those, which costs it more than all the rest. The second does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.course import Course
from nestvmm.bench.row import FLAT, Row, compare
from nestvmm.bench.svm_loop import SvmLoop
from nestvmm.bench.trips import heights_of, take_turns

__all__ = ["Switch"]

_PYTHON = "served in Python"
_TRIPS = 250

# Goals of the ratios.
_GOAL_C = 1.15
_GOAL_PYTHON = 1.4
_GOAL_FLAT = 1.10


@dataclass(frozen=True, slots=True)
class Switch:
    """The case.

    trips:  CPUIDs in a run
    """

    name: ClassVar[str] = "switch"
    about: ClassVar[str] = "a world switch alone (bare VMRUN loop), and CPUID through the switcher, by L0's clock"
    trips: int = _TRIPS

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One: all take turns."""
        if "svm" in choice.engines:
            yield Step("svm", partial(self.measure, choice))

    def measure(self, choice: Choice) -> list[Row]:
        """Rows with ratios run by run."""
        with ExitStack() as stack:

            def course(height: int, handler: int) -> Callable[[], float]:
                return stack.enter_context(Course(self.trips, height, handler, engine="svm")).batch

            bare = Row(
                self.name,
                "bare loop",
                system="bare loop",
                engine="svm",
                level=2,
                clock="L0",
                us_per_unit=choice.us_per_cycle,
            )
            base = replace(bare, system="nestvmm", mode=FLAT)
            variants: dict[Row, Callable[[], float]] = {
                replace(bare, what="bare loop, shared tables"): stack.enter_context(SvmLoop(self.trips, True)).batch,
                bare: stack.enter_context(SvmLoop(self.trips)).batch,
                replace(base, what="served in C", handler="C", handler_level=0): course(2, 0),
                replace(base, what=_PYTHON, handler="Python", handler_level=1): course(2, 1),
            }
            for height in heights_of(choice):
                what = f"{_PYTHON} at L{height - 1}, guest at L{height}"
                row = replace(base, what=what, level=height, handler="Python", handler_level=height - 1)
                variants[row] = course(height, height - 1)
            return list(_compared(take_turns(variants, choice.runs or RUNS)))


def _compared(rows: Sequence[Row]) -> Iterator[Row]:
    shared, bare, in_c, in_python, *higher = rows
    yield shared
    yield bare
    yield compare(in_c, bare, _GOAL_C)
    yield compare(in_python, shared, _GOAL_PYTHON)
    yield compare(in_python, bare)
    for row in higher:
        yield compare(row, in_python, _GOAL_FLAT)

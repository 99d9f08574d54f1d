"""A world switch alone, and round trips of CPUID through the switcher: in C, in Python, and up towers.

A bare loop stands beside them (bare_loop.py), and one in Python: the least that a loop written in it does. By VMRUN
there is another: it is what a program does that lets the nested guest share the page tables of its host; KVM
write-protects those, which costs it more than all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.course import Course
from nestvmm.bench.goals import SWITCH_IN_C, SWITCH_IN_PYTHON, SWITCH_UP_TOWERS
from nestvmm.bench.row import FLAT, Row, compare
from nestvmm.bench.svm_loop import SvmLoop
from nestvmm.bench.trips import heights_of, take_turns
from nestvmm.bench.vmx_loop import VmxLoop

__all__ = ["Switch"]

_PYTHON = "served in Python"
_TRIPS = 250


@dataclass(frozen=True, slots=True)
class Switch:
    """The case.

    trips:  CPUIDs in a run
    """

    name: ClassVar[str] = "switch"
    about: ClassVar[str] = (
        "a world switch alone (bare VMRUN or VMRESUME loop), and CPUID through the switcher, by L0's clock"
    )
    trips: int = _TRIPS

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One for each engine: all take turns."""
        for engine in ("svm", "vmx"):
            if engine in choice.engines:
                yield Step(engine, partial(self.measure, choice, engine))

    def measure(self, choice: Choice, engine: str) -> list[Row]:
        """Rows with ratios run by run."""
        with ExitStack() as stack:

            def course(height: int, handler: int) -> Callable[[], float]:
                return stack.enter_context(Course(self.trips, height, handler, engine=engine)).batch

            bare = Row(
                self.name,
                "bare loop",
                system="bare loop",
                engine=engine,
                level=2,
                clock="L0",
                us_per_unit=choice.us_per_cycle,
            )
            base = replace(bare, system="nestvmm", mode=FLAT)
            variants: dict[Row, Callable[[], float]] = {}
            if engine == "svm":
                shared = replace(bare, what="bare loop, shared tables")
                variants[shared] = stack.enter_context(SvmLoop(self.trips, True)).batch
            loop = SvmLoop(self.trips) if engine == "svm" else VmxLoop(self.trips)
            variants |= {
                bare: stack.enter_context(loop).batch,
                replace(bare, what=f"{bare.what} in Python", handler="Python"): loop.python_batch,
                replace(base, what="served in C", handler="C", handler_level=0): course(2, 0),
                replace(base, what=_PYTHON, handler="Python", handler_level=1): course(2, 1),
            }
            for height in heights_of(choice):
                what = f"{_PYTHON} at L{height - 1}, guest at L{height}"
                row = replace(base, what=what, level=height, handler="Python", handler_level=height - 1)
                variants[row] = course(height, height - 1)
            rows = take_turns(variants, choice.runs or RUNS)
        if engine == "svm":
            return [rows[0], *_compared(rows[1:], rows[0])]
        return list(_compared(rows))


def _compared(rows: Sequence[Row], shared: Row | None = None) -> Iterator[Row]:
    bare, by_python, in_c, in_python, *higher = rows
    yield bare
    yield compare(by_python, bare)
    yield compare(in_c, bare, SWITCH_IN_C.most)
    if shared is not None:
        yield compare(in_python, shared, SWITCH_IN_PYTHON.most)
    yield compare(in_python, bare, None if shared else SWITCH_IN_PYTHON.most)
    for row in higher:
        yield compare(row, in_python, SWITCH_UP_TOWERS.most)

"""A world switch alone, and round trips of CPUID through the switcher: in C, in Python, and up towers.

Bare loops stand beside them (svm_loop.py, vmx_loop.py). Under svm there is one more: what a program does that lets the
nested guest share the page tables of its host; KVM write-protects those, which costs it more than all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final

from nestvmm.bench.bare_loop import BareLoop
from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.course import Course
from nestvmm.bench.row import FLAT, Row, compare
from nestvmm.bench.svm_loop import SvmLoop
from nestvmm.bench.trips import heights_of, take_turns
from nestvmm.bench.vmx_loop import VmxLoop

__all__ = ["Switch"]

_PYTHON: Final = "served in Python"
_SHARED: Final = "bare loop, shared tables"
_TRIPS: Final = 250
_LOOPS: Final[dict[str, dict[str, Callable[[int], BareLoop]]]] = {
    "svm": {"bare loop": SvmLoop, _SHARED: partial(SvmLoop, shared=True)},
    "vmx": {"bare loop": VmxLoop},
}

# Goals of the ratios.
_GOAL_C: Final = 1.15
_GOAL_PYTHON: Final = 1.4
_GOAL_FLAT: Final = 1.10


@dataclass(frozen=True, slots=True)
class Switch:
    """The case.

    trips:  CPUIDs in a run
    """

    name: ClassVar[str] = "switch"
    about: ClassVar[str] = (
        "a world switch alone (bare VMRUN and VMRESUME loops), and CPUID by the switcher, by L0's clock"
    )
    trips: int = _TRIPS

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One for each engine: all take turns."""
        for engine in choice.engines:
            if engine in _LOOPS:
                yield Step(engine, partial(self.measure, choice, engine))

    def measure(self, choice: Choice, engine: str) -> list[Row]:
        """Rows with ratios run by run."""
        bare = Row(self.name, system="bare loop", engine=engine, level=2, clock="L0", us_per_unit=choice.us_per_cycle)
        base = replace(bare, system="nestvmm", mode=FLAT)
        with ExitStack() as stack:
            variants: dict[Row, Callable[[], float]] = {
                replace(bare, what=what): stack.enter_context(loop(self.trips)).batch
                for what, loop in _LOOPS[engine].items()
            }
            courses = [("served in C", 2, 0), (_PYTHON, 2, 1)]
            courses += [
                (f"{_PYTHON} at L{height - 1}, guest at L{height}", height, height - 1) for height in heights_of(choice)
            ]
            for what, height, handler in courses:
                row = replace(
                    base, what=what, level=height, handler="Python" if handler else "C", handler_level=handler
                )
                variants[row] = stack.enter_context(Course(self.trips, height, handler, engine=engine)).batch
            return list(_compared(take_turns(variants, choice.runs or RUNS)))


def _compared(rows: Sequence[Row]) -> Iterator[Row]:
    loops = {row.what: row for row in rows if row.system == "bare loop"}
    bare = loops["bare loop"]
    in_c, in_python, *higher = rows[len(loops) :]
    yield from loops.values()
    yield compare(in_c, bare, _GOAL_C)
    if _SHARED in loops:
        yield compare(in_python, loops[_SHARED], _GOAL_PYTHON)
    yield compare(in_python, bare)
    for row in higher:
        yield compare(row, in_python, _GOAL_FLAT)

"""Round trips of a port read by L0's clock: bare, served in C, in Python, and up towers of growing height.

The bare loop in Python is the least that a loop written in Python does (python_loop.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.course import Course
from nestvmm.bench.goals import PORT_IN_C, PORT_IN_PYTHON, PORT_UP_TOWERS
from nestvmm.bench.row import FLAT, Row, compare

__all__ = ["HEIGHTS", "RoundTrips", "heights_of", "take_turns"]

#: Heights of the towers: level n of each one has the guest.
HEIGHTS = (2, 4, 8, 16)

_TRIPS = 250
_RUNS = 300
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """The case.

    trips:  port reads in a run
    """

    name: ClassVar[str] = "round-trip"
    about: ClassVar[str] = "a port read by L0's clock, against the least that a KVM_RUN loop does, and up towers"
    trips: int = _TRIPS

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One: all take turns."""
        if "direct" in choice.engines:
            yield Step("direct", partial(self.measure, choice))

    def measure(self, choice: Choice) -> list[Row]:
        """Rows with ratios run by run."""
        heights = heights_of(choice)
        with ExitStack() as stack:

            def course(height: int, handler: int) -> Course:
                return stack.enter_context(Course(self.trips, height, handler))

            in_c = course(2, 0)
            bare = Row(self.name, "bare loop", system="bare loop", engine="direct", level=1, clock="L0")
            base = replace(bare, system="nestvmm", mode=FLAT, us_per_unit=choice.us_per_cycle)
            bare = replace(bare, us_per_unit=choice.us_per_cycle)
            variants: dict[Row, Callable[[], float]] = {
                bare: in_c.bare_batch,
                replace(bare, what=f"{bare.what} in Python", handler="Python"): in_c.python_batch,
                replace(base, what="served in C", level=2, handler="C", handler_level=0): in_c.batch,
            }
            for height, handler in ((2, 1), *((h, 1) for h in heights), *((h, h - 1) for h in heights)):
                what = _PYTHON if height == 2 else f"{_PYTHON} at L{handler}, guest at L{height}"
                row = replace(base, what=what, level=height, handler="Python", handler_level=handler)
                variants[row] = course(height, handler).batch
            runs = choice.runs or (RUNS if choice.emulated else _RUNS)
            rows = take_turns(variants, runs)
        return [rows[0], *_compared(rows)]


_PYTHON = "served in Python"


def _compared(rows: Sequence[Row]) -> Iterator[Row]:
    bare, by_python, in_c, in_python, *higher = rows
    yield compare(by_python, bare)
    yield compare(in_c, bare, PORT_IN_C.most)
    yield compare(in_python, bare, PORT_IN_PYTHON.most)
    for row in higher:
        yield compare(row, in_python, PORT_UP_TOWERS.most)


def heights_of(choice: Choice) -> list[int]:
    """The heights above 2 that are wanted."""
    return [height for height in choice.heights or HEIGHTS if height > 2]


def take_turns(variants: dict[Row, Callable[[], float]], runs: int) -> list[Row]:
    """The rows with the ticks of their runs, in rounds whose order is drawn anew each time."""
    order = list(variants)
    taken: dict[Row, list[float]] = {row: [] for row in order}
    shuffle = random.Random(0).shuffle
    for number in range(_WARM_UP + runs):
        shuffle(order)
        for row in order:
            ticks = variants[row]()
            if number >= _WARM_UP:
                taken[row].append(ticks)
    return [replace(row, runs=tuple(ticks)) for row, ticks in taken.items()]

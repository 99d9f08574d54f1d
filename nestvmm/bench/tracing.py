"""What `nestvmm run --trace` costs: the port exit with and without it, in turns."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from nestvmm.bench.course import Course
from nestvmm.bench.row import Row, compare
from nestvmm.bench.trips import take_turns
from nestvmm.errors import HostError
from nestvmm.nesting import Clock, Runner
from nestvmm.trace import Recorder

__all__ = ["TracedCourse", "measure_tracing"]

_TRIPS = 250
_GOAL = 1.15


class TracedCourse(Course):
    """A course each of whose events is written to a file in Chrome's format; `recorder` must be open."""

    recorder: Recorder

    def batch(self) -> float:
        """As Course.batch."""
        result = Runner(self.tower, drain=self.recorder.drain).run()
        if result.status:
            raise HostError(f"the benchmark's guest ended with status {result.status}: {result.message}")
        return self._keeper.ticks / self.trips


def measure_tracing(batches: int, *, trips: int = _TRIPS) -> list[Row]:
    """Rows with ratios pair by pair; in TSC ticks.

    batches:  batches of each variant; a batch of 250 trips leaves 180 kB, for as long as this takes, in a file
    trips:    port reads in a batch
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nestvmm-")))
        clock = Clock()

        def untraced(handler: int) -> Course:
            return stack.enter_context(Course(trips, 2, handler))

        def traced(handler: int) -> Course:
            course = TracedCourse(trips, 2, handler)
            stack.enter_context(course)
            course.recorder = stack.enter_context(Recorder(folder / f"{handler}.json", course.tower, clock))
            return course

        samples = take_turns(
            {
                "served in C": untraced(0).batch,
                "served in C, traced": traced(0).batch,
                "served in Python": untraced(1).batch,
                "served in Python, traced": traced(1).batch,
            },
            batches,
        )
    return [
        compare(
            f"port exit, {where}, traced",
            "ticks",
            samples[f"{where}, traced"],
            against=where,
            references=samples[where],
            goal=_GOAL,
        )
        for where in ("served in C", "served in Python")
    ]

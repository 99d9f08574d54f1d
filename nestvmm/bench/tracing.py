"""What `nestvmm run --trace` costs, and with it the parts of an exit: a port read, or CPUID under svm and vmx."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import ClassVar, Final

from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.course import Course
from nestvmm.bench.goals import TRACED
from nestvmm.bench.row import FLAT, Row, compare
from nestvmm.bench.trips import take_turns
from nestvmm.errors import HostError
from nestvmm.nesting import Clock
from nestvmm.trace import Recorder
from nestvmm.trace.reader import Traced, read_trace

__all__ = ["PARTS", "Parts", "Tracing"]

_TRIPS: Final = 250
# Reading a trace takes an emulated machine longer than leaving it.
_TRIPS_IN_LAB: Final = 100
_RUNS: Final = 100
_HANDLERS: Final = (("C", 0), ("Python", 1))


@dataclass(frozen=True, slots=True)
class Tracing:
    """The case: each round trip traced against untraced, in turns. A trip leaves 700 bytes in a file meanwhile."""

    name: ClassVar[str] = "tracing"
    about: ClassVar[str] = "what `nestvmm run --trace` costs a port read"
    trips: int = _TRIPS

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One: all take turns."""
        if "direct" in choice.engines:
            yield Step("direct", partial(self.measure, choice))

    def measure(self, choice: Choice) -> list[Row]:
        """Pairs of rows."""
        base = Row(self.name, engine="direct", level=2, mode=FLAT, clock="L0", us_per_unit=choice.us_per_cycle)
        variants: dict[Row, Callable[[], float]] = {}
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nestvmm-")))
            clock = Clock()
            for handler, level in _HANDLERS:
                row = replace(base, what=f"served in {handler}", handler=handler, handler_level=level)
                variants[row] = stack.enter_context(Course(self.trips, 2, level)).batch
                course = stack.enter_context(Course(self.trips, 2, level))
                course.drain = stack.enter_context(Recorder(folder / f"{handler}.json", course.tower, clock)).drain
                variants[replace(row, what=f"{row.what}, traced")] = course.batch
            rows = take_turns(variants, choice.runs or (RUNS if choice.emulated else _RUNS))
        in_c, in_c_traced, in_python, in_python_traced = rows
        # the goal is that of a machine whose other processor has time for the thread that writes
        goal = None if choice.emulated else TRACED.most
        return [in_c, compare(in_c_traced, in_c, goal), in_python, compare(in_python_traced, in_python, goal)]


#: The parts of an exit, by the names that a reader of a report sees.
PARTS: Final[dict[str, Callable[[Traced], int]]] = {
    "world switch": lambda event: event.guest,
    "decode": lambda event: event.decode,
    "route": lambda event: event.route,
    "handler": lambda event: event.handle,
    "resume": lambda event: event.complete,
}


@dataclass(frozen=True, slots=True)
class Parts:
    """The case: what a traced exit's parts take, a run's figure being the median of its trips.

    The world switch goes from the entry of the guest to its exit, with the instruction that caused it; the handler,
    from the moment it was known until it had answered; resume is the answer's way to the guest, without the entry.
    """

    name: ClassVar[str] = "parts"
    about: ClassVar[str] = "world switch, decoding, routing, handler and resumption of an exit, from its trace"
    trips: int = _TRIPS

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One for each engine and handler."""
        for engine in choice.engines:
            for handler, level in _HANDLERS:
                yield Step(f"{engine}, {handler}", partial(self.measure, choice, engine, handler, level))

    def measure(self, choice: Choice, engine: str, handler: str, level: int) -> list[Row]:
        """A row for each part."""
        runs: dict[str, list[float]] = {part: [] for part in PARTS}
        with (
            tempfile.TemporaryDirectory(prefix="nestvmm-") as folder,
            Course(min(self.trips, _TRIPS_IN_LAB) if choice.emulated else self.trips, 2, level, engine) as course,
        ):
            for number in range(1 + (choice.runs or RUNS)):
                events = self._run(course, Path(folder) / "trace.jsonl")
                if number:
                    for part, of in PARTS.items():
                        runs[part].append(median(map(of, events)) / 1000)
        base = Row(self.name, engine=engine, level=2, mode=FLAT, clock="L0", unit="us", us_per_unit=1.0)
        base = replace(base, handler=handler, handler_level=level)
        return [replace(base, what=f"{part}, served in {handler}", runs=tuple(runs[part])) for part in PARTS]

    def _run(self, course: Course, file: Path) -> list[Traced]:
        """The events of one run that are measured: reads of a port, or CPUID; the doorbells are writes."""
        with Recorder(file, course.tower, Clock()) as recorder:
            course.drain = recorder.drain
            course.batch()
        events = [event for event in read_trace(file) if event.direction != "write"]
        if len(events) != course.trips:
            raise HostError(f"the trace has {len(events)} of {course.trips} exits")
        return events

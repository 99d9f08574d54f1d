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

from nestvmm._native import lib
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
    """The case: each round trip traced against untraced, in turns; and against that and the writing of 600 bytes."""

    name: ClassVar[str] = "tracing"
    about: ClassVar[str] = "what `nestvmm run --trace` costs a port read"
    trips: int = _TRIPS

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One: all take turns."""
        if "direct" in choice.engines:
            yield Step("direct", partial(self.measure, choice))

    def measure(self, choice: Choice) -> list[Row]:
        """Three rows for each handler."""
        base = Row(self.name, engine="direct", level=2, mode=FLAT, clock="L0", us_per_unit=choice.us_per_cycle)
        variants: dict[Row, Callable[[], float]] = {}
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nestvmm-")))
            clock = Clock()

            def traced(level: int, name: str) -> _TracedCourse:
                return stack.enter_context(_TracedCourse(self.trips, level, folder / f"{name}.json", clock))

            for handler, level in _HANDLERS:
                row = replace(base, what=f"served in {handler}", handler=handler, handler_level=level)
                variants[row] = stack.enter_context(Course(self.trips, 2, level)).batch
                variants[replace(row, what=f"{row.what}, traced")] = traced(level, handler).batch
                written = traced(level, f"{handler}-written")
                variants[replace(row, what=f"{row.what}, traced and written")] = written.batch_and_writing
            rows = take_turns(variants, choice.runs or (RUNS if choice.emulated else _RUNS))
        return [one for three in (rows[:3], rows[3:]) for one in _compared(*three)]


def _compared(untraced: Row, traced: Row, written: Row) -> list[Row]:
    return [untraced, compare(traced, untraced, TRACED.most), compare(written, untraced)]


class _TracedCourse:
    """A course whose exits go to a trace; a context manager."""

    def __init__(self, trips: int, level: int, file: Path, clock: Clock) -> None:
        self._course = Course(trips, 2, level)
        try:
            self._recorder = Recorder(file, self._course.tower, clock)
        except BaseException:
            self._course.tower.close()
            raise
        self._course.drain = self._recorder.drain

    def __enter__(self) -> _TracedCourse:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._course:
            self._recorder.__exit__(*exception)

    def batch(self) -> float:
        """As Course.batch; most of the trace waits in memory meanwhile where no processor is free."""
        return self._course.batch()

    def batch_and_writing(self) -> float:
        """The same, and what is left of the writing."""
        self._recorder.write()
        ticks = self._course.batch()
        start = int(lib.nv_ticks())
        self._recorder.write()
        return ticks + (int(lib.nv_ticks()) - start) / self._course.trips


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

"""Round trips of CPUID through the switcher: bare, served in C, in Python, and up towers of growing height.

Two bare loops stand beside them (svm_loop.py). The first is what a program does that lets the nested guest share the
page tables of its host; KVM write-protects those, which costs it more than all the rest. The second does not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from nestvmm.bench.course import Course
from nestvmm.bench.row import Row, compare
from nestvmm.bench.svm_loop import SvmLoop
from nestvmm.bench.trips import HEIGHTS, take_turns

__all__ = ["measure_switch"]

_SHARED = "bare loop, shared tables"
_BARE = "bare loop"
_IN_C = "served in C"
_IN_PYTHON = "served in Python"
_TRIPS = 250

# Goals of the ratios.
_GOAL_C = 1.15
_GOAL_PYTHON = 1.4
_GOAL_FLAT = 1.10


def measure_switch(batches: int, *, trips: int = _TRIPS) -> list[Row]:
    """Rows in TSC ticks, with ratios pair by pair; for a host whose kvm_amd nests.

    batches:  batches of each variant, which take turns
    trips:    CPUIDs in a batch
    """
    with ExitStack() as stack:

        def course(height: int, handler: int) -> Callable[[], float]:
            return stack.enter_context(Course(trips, height, handler, engine="svm")).batch

        variants = {
            _SHARED: stack.enter_context(SvmLoop(trips, shared=True)).batch,
            _BARE: stack.enter_context(SvmLoop(trips)).batch,
            _IN_C: course(2, 0),
            _IN_PYTHON: course(2, 1),
            **{_at(height): course(height, height - 1) for height in HEIGHTS[1:]},
        }
        samples = take_turns(variants, batches)

    def row(name: str, against: str = "", goal: float | None = None) -> Row:
        references = samples[against] if against else ()
        return compare(
            f"CPUID by svm, {name}", "ticks", samples[name], against=against, references=references, goal=goal
        )

    return [
        row(_SHARED),
        row(_BARE),
        row(_IN_C, _BARE, _GOAL_C),
        row(_IN_PYTHON, _SHARED, _GOAL_PYTHON),
        row(_IN_PYTHON, _BARE),
        *(row(_at(height), _IN_PYTHON, _GOAL_FLAT) for height in HEIGHTS[1:]),
    ]


def _at(height: int) -> str:
    return f"served in Python at L{height - 1}, guest at L{height}"

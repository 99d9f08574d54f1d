"""Round trips of a port exit: bare, served in C, in Python, and up towers of growing height."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack

from nestvmm.bench.course import Course
from nestvmm.bench.row import Row, compare
from nestvmm.nesting import Clock

__all__ = ["HEIGHTS", "measure_trips", "take_turns"]

#: Heights of the towers: level n of each one has the guest.
HEIGHTS = (2, 4, 8, 16)

_BARE = "bare loop"
_IN_C = "served in C"
_TRIPS = 250
_WARM_UP = 3

# Goals of the ratios.
_GOAL_C = 1.10
_GOAL_PYTHON = 1.6
_GOAL_FLAT = 1.10


def measure_trips(batches: int, *, trips: int = _TRIPS, unit: str = "us") -> list[Row]:
    """Rows of the round trips, with ratios pair by pair.

    batches:  batches of each variant; they take turns, in an order that is drawn anew for each round
    trips:    port reads in a batch
    unit:     us or ticks
    """
    with ExitStack() as stack:

        def course(height: int, handler: int) -> Course:
            return stack.enter_context(Course(trips, height, handler))

        in_c = course(2, 0)
        variants: dict[str, Callable[[], float]] = {_BARE: in_c.bare_batch, _IN_C: in_c.batch}
        for height in HEIGHTS:
            variants[_lowest(height)] = course(height, 1).batch
        for height in HEIGHTS[1:]:
            variants[_highest(height)] = course(height, height - 1).batch
        clock = Clock()
        samples = take_turns(variants, batches)
        scale = clock.ns_per_tick() / 1000 if unit == "us" else 1.0
    return _rows({name: [ticks * scale for ticks in taken] for name, taken in samples.items()}, unit)


def take_turns(variants: dict[str, Callable[[], float]], batches: int) -> dict[str, list[float]]:
    """The ticks of each variant's batches, in rounds whose order is drawn anew each time."""
    order = list(variants)
    samples: dict[str, list[float]] = {name: [] for name in order}
    shuffle = random.Random(0).shuffle
    for number in range(_WARM_UP + batches):
        shuffle(order)
        for name in order:
            ticks = variants[name]()
            if number >= _WARM_UP:
                samples[name].append(ticks)
    return samples


def _lowest(height: int) -> str:
    return "served in Python" if height == HEIGHTS[0] else f"served in Python at L1, guest at L{height}"


def _highest(height: int) -> str:
    return f"served in Python at L{height - 1}, guest at L{height}"


def _rows(samples: dict[str, list[float]], unit: str) -> list[Row]:
    bare, flat = samples[_BARE], samples[_lowest(HEIGHTS[0])]

    def to_bare(name: str, goal: float) -> Row:
        return compare(f"port exit, {name}", unit, samples[name], against=_BARE, references=bare, goal=goal)

    def to_flat(name: str) -> Row:
        goal = _GOAL_FLAT
        return compare(f"port exit, {name}", unit, samples[name], against="guest at L2", references=flat, goal=goal)

    return [
        compare(f"port exit, {_BARE}", unit, bare),
        to_bare(_IN_C, _GOAL_C),
        to_bare(_lowest(HEIGHTS[0]), _GOAL_PYTHON),
        *(to_flat(_lowest(height)) for height in HEIGHTS[1:]),
        *(to_flat(_highest(height)) for height in HEIGHTS[1:]),
    ]

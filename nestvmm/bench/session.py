"""Does the steps of the chosen cases, one after the other, but for those that the journal has already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from nestvmm.bench.case import Case, Choice, Step
from nestvmm.bench.row import Row
from nestvmm.errors import NestvmmError

__all__ = ["Keeper", "Watcher", "measure", "plan"]

#: What is told of progress: the number of steps in all, then each step's name as it begins, None at the end.
Watcher = Callable[[int, str | None], None]


class Keeper(Protocol):
    """Where rows go as they come: see journal.Journal."""

    done: dict[str, list[Row]]

    def add(self, step: str, rows: Sequence[Row]) -> None:
        """A step is done."""


def plan(cases: Iterable[Case], choice: Choice) -> dict[str, tuple[Case, Step]]:
    """The steps of all cases by `case/step`, in order."""
    return {f"{case.name}/{step.name}": (case, step) for case in cases for step in case.steps(choice)}


def measure(steps: dict[str, tuple[Case, Step]], keeper: Keeper, watch: Watcher) -> list[str]:
    """Does what is not done. The messages of the steps that failed, which leave a row that says why."""
    failed = []
    for name, (case, step) in steps.items():
        watch(len(steps), name)
        if name in keeper.done:
            continue
        try:
            rows = step.measure()
        except (NestvmmError, OSError) as error:
            failed.append(f"{name}: {error}")
            rows = [Row(case.name, step.name, note=f"failed: {error}")]
        keeper.add(name, rows)
    watch(len(steps), None)
    return failed

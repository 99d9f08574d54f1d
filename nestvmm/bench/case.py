"""A case is one thing that can be measured; it is made of steps, each of which gives rows.

To add a case: something that has Case's three members, and a line in catalog.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nestvmm.bench.row import Row

__all__ = ["RUNS", "RUNS_MIN", "WARM_UP", "Case", "Choice", "Step"]

#: Runs of each figure, unless the user says how many; the least that the user may say; runs before those that count.
RUNS, RUNS_MIN, WARM_UP = 12, 10, 2


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user wants, and what there is.

    engines:   those that work here and are wanted, in the order direct, svm, vmx
    heights:   the towers' heights (the guest's level); empty: each case's own
    runs:      runs of each figure; None: each case's own number
    peer:      QEMU is measured, too
    guests:    where the guests are that `make guests` built
    tsc_mhz:   TSC ticks of a microsecond
    icount:    the TSC counts instructions
    emulated:  the machine is an emulated one, a lab: fewer exits make a run, and fewer runs a figure
    """

    engines: tuple[str, ...]
    guests: Path
    tsc_mhz: float
    heights: tuple[int, ...] = ()
    runs: int | None = None
    peer: bool = False
    icount: bool = False
    emulated: bool = False

    @property
    def us_per_cycle(self) -> float:
        """Microseconds of a TSC tick."""
        return 1 / self.tsc_mhz

    @property
    def directly_here(self) -> bool:
        """Whether the direct engine is wanted, on a machine that is not emulated."""
        return "direct" in self.engines and not self.emulated


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a case that is measured in one go: what is compared with each other is in one step, in turns.

    name:     tells the case's steps apart, and says to the user what is being measured
    measure:  gives the rows; raises HostError where that cannot be
    """

    name: str
    measure: Callable[[], list[Row]]


class Case(Protocol):
    """What `nestvmm bench --case NAME` measures; `about` is a line for people."""

    @property
    def name(self) -> str:
        """Letters, digits and dashes."""
        ...

    @property
    def about(self) -> str:
        """What it measures."""
        ...

    def steps(self, choice: Choice) -> Iterable[Step]:
        """What is to be done for this choice; nothing where it has nothing to measure."""
        ...

"""What emulates a feature in L0: the second set's members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from nestvmm.nesting.designation import Scope
from nestvmm.nesting.features.cpu import Cpu
from nestvmm.x86.event import Event, Result

__all__ = ["Emulator"]


class Emulator(ABC):
    """L0's software for one feature; a tower makes one object of each, which keeps the state of all levels.

    feature:  its name in the catalogue
    scopes:   the events that the feature's use causes where the hardware lacks it
    absent:   what a level that does not see the feature gets for such an event, as from a processor without it
    trials:   instructions that must run, or be handed over, for L0 to have the feature; RAX points at memory
    """

    feature: ClassVar[str]
    scopes: ClassVar[tuple[Scope, ...]]
    absent: ClassVar[Result]
    trials: ClassVar[tuple[bytes, ...]] = ()

    def __init__(self, levels: frozenset[int]) -> None:
        #: The levels that see the feature.
        self.levels = levels

    @abstractmethod
    def handle(self, event: Event, cpu: Cpu) -> Result:
        """Does what the feature's hardware would do for the level that caused the event, which sees the feature."""

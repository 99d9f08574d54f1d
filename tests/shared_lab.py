"""A lab that modules of tests share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from nestvmm.lab import Lab, LocalLab
from nestvmm.lab.emulated import EmulatedLab

__all__ = ["SharedLab"]


class SharedLab(ExitStack):
    """Boots a lab when it is first asked for, and another after one that failed: it starts again only once."""

    def __init__(self, make: Callable[[], LocalLab | EmulatedLab]) -> None:
        super().__init__()
        self._make = make
        self._lab: Lab | None = None

    def __enter__(self) -> Self:
        return self

    def get(self) -> Lab:
        if self._lab is None or (isinstance(self._lab, EmulatedLab) and self._lab.restarts):
            self.close()
            self._lab = None
            self._lab = self.enter_context(self._make())
        return self._lab

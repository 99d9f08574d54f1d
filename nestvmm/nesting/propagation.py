"""The effects of handled events, as each level sees them.

What the handler at level x did holds for the levels x+1 to n: they all are "the software that caused the event" to
it, one inside the other. Carrying an effect to each of them when it happens would cost more the higher the tower is,
so effects are kept once, in level n's coordinates, with the level that made them; level y sees the newest one that a
level below y made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nestvmm._dispatch import EffectTable
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Effects"]


class Effects(EffectTable):
    """The newest effect of each handler on each (reason, qualifier at level n, whether it was a write).

    causes:  the levels whose software can cause events: n, and with images below it theirs, ascending
    """

    def __init__(self, causes: Sequence[int]) -> None:
        self._causes = causes

    def seen_by(self, level: int, reason: ExitReason, qualifiers: Iterable[int], write: bool) -> int | None:
        """The value that level `level` sees: the newest that a level below it made; None: there is none.

        qualifiers: more than one where several of level n's addresses are one of level `level`'s
        """
        effects = (
            self.newest(reason, qualifier, write, handler, cause)
            for qualifier in qualifiers
            for handler in range(level)
            for cause in self._causes
            if cause >= level
        )
        return max((effect for effect in effects if effect is not None), default=(0, None))[1]

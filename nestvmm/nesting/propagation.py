"""The effects of handled events, as each level sees them.

What the handler at level x did holds for the levels x+1 to n: they all are "the software that caused the event" to
it, one inside the other. Carrying an effect to each of them when it happens would cost more the higher the tower is,
so effects are kept once, in level n's coordinates, with the level that made them; level y sees the newest one that a
level below y made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Effects"]

# A guest chooses the qualifiers; this bounds what it can make L0 keep.
_KEPT = 4096


class Effects:
    """The newest effect of each handler on each (reason, qualifier at level n, whether it was a write).

    causes:  the levels whose software can cause events: n, and with images below it theirs, ascending
    """

    def __init__(self, causes: Sequence[int]) -> None:
        self._causes = causes
        # each with its number among all, which says which is the newest
        self._newest: OrderedDict[tuple[int, int, bool, int, int], tuple[int, int]] = OrderedDict()
        self._sequence = 0

    def record(self, reason: int, qualifier: int, write: bool, handler: int, cause: int, value: int) -> None:
        """Level `handler` handled this event of level `cause` with this value: it holds for the levels between."""
        newest = self._newest
        self._sequence = sequence = self._sequence + 1
        newest[reason, qualifier, write, handler, cause] = (sequence, value)
        if len(newest) > _KEPT:
            newest.popitem(last=False)

    def seen_by(self, level: int, reason: ExitReason, qualifiers: Iterable[int], write: bool) -> int | None:
        """The value that level `level` sees: the newest that a level below it made; None: there is none.

        qualifiers: more than one where several of level n's addresses are one of level `level`'s
        """
        keys = (
            (reason, qualifier, write, handler, cause)
            for qualifier in qualifiers
            for handler in range(level)
            for cause in self._causes
            if cause >= level
        )
        return max((self._newest[key] for key in keys if key in self._newest), default=(0, None))[1]

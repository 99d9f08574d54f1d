"""The effects of handled events, as each level sees them.

What the handler at level x did holds for the levels x+1 to n: they all are "the software that caused the event" to
it, one inside the other. Carrying an effect to each of them when it happens would cost more the higher the tower is,
so effects are kept once, in level n's coordinates, with the level that made them; level y sees the newest one that a
level below y made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Effect", "Effects"]

# A guest chooses the qualifiers; this bounds what it can make L0 keep.
_KEPT = 4096


class Effect(NamedTuple):
    """A value that the handler at level `handler` gave to, or took from, the levels above it."""

    sequence: int
    handler: int
    value: int


class Effects:
    """The newest effects by (reason, qualifier at level n, whether it was a write)."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[tuple[int, int, bool], dict[int, Effect]] = OrderedDict()
        self._sequence = 0

    def record(self, reason: int, qualifier: int, write: bool, handler: int, value: int) -> None:
        """Level `handler` handled this event with this value: it holds for the levels above."""
        self._sequence += 1
        key = (reason, qualifier, write)
        kept = self._by_key.get(key)
        if kept is None:
            if len(self._by_key) >= _KEPT:
                self._by_key.popitem(last=False)
            kept = self._by_key[key] = {}
        kept[handler] = Effect(self._sequence, handler, value)

    def seen_by(self, level: int, reason: ExitReason, qualifiers: Iterable[int], write: bool) -> int | None:
        """The value that level `level` sees: the newest that a level below it made; None: there is none.

        qualifiers: more than one where several of level n's addresses are one of level `level`'s
        """
        kept = [self._by_key.get((reason, qualifier, write), {}) for qualifier in qualifiers]
        newest = max((effect for one in kept for effect in one.values() if effect.handler < level), default=None)
        return None if newest is None else newest.value

"""The part of an engine that levels of machine code need, for one that knows of none."""

from __future__ import annotations

from collections.abc import Sequence

from nestvmm.devices import Server
from nestvmm.engines.engine import MemorySlot
from nestvmm.errors import HostError
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope
from nestvmm.x86.spans import Span

__all__ = ["NoImages"]


class NoImages:
    """What level n runs is not this engine's to know; see nestvmm.engines.engine.Engine."""

    def image_claims(self) -> list[tuple[int, Scope, Server]]:
        """None."""
        return []

    def read_machine(self, depth: int, address: int, size: int, *, beneath: bool = False) -> bytes | None:
        """None: there is no such machine."""
        return None

    def write_machine(self, depth: int, address: int, data: bytes, *, beneath: bool = False) -> bool:
        """False: likewise."""
        return False

    def give(self, space: int, slots: Sequence[MemorySlot], devices: Sequence[Span]) -> None:
        """Refused: there are no machines above an image."""
        raise HostError(f"this engine runs no machine code above an image, so none at depth {space}")

    def intercept_above(self, space: int, reasons: frozenset[ExitReason]) -> None:
        """Nothing: there is no such machine."""

    def request_timer_above(self, space: int, cycles: int) -> None:
        """Nothing: likewise."""

    def inject_above(self, space: int, vector: int | None) -> None:
        """Nothing: there is no such machine."""

    def request_window_above(self, space: int, *, nmi: bool) -> None:
        """Nothing: likewise."""

    def cpuid_asker(self, level: int) -> Server:
        """Refused: levels of no images change no answers of any."""
        raise HostError(f"this engine runs no machine code above an image: L{level} cannot change what one answers")

    def answered_cpuid(self) -> tuple[int, int, int]:
        """None did."""
        return 0, 0, 0

    def image_counts(self) -> list[tuple[int, int, int, int]]:
        """None."""
        return []

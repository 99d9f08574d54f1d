"""The part of an engine that levels of machine code need, for one that knows of none."""

from __future__ import annotations

from nestvmm.devices import Server
from nestvmm.x86.scope import Scope

__all__ = ["NoImages"]


class NoImages:
    """What level n runs is not this engine's to know; see nestvmm.engines.engine.Engine."""

    def image_claims(self) -> list[tuple[int, Scope, Server]]:
        """None."""
        return []

    def read_machine(self, depth: int, address: int, size: int) -> bytes | None:
        """None: there is no such machine."""
        return None

    def write_machine(self, depth: int, address: int, data: bytes) -> bool:
        """False: likewise."""
        return False

    def image_counts(self) -> list[tuple[int, int, int, int]]:
        """None."""
        return []

"""A level of machine code, in its place among Python hypervisors."""

from __future__ import annotations

from nestvmm.hypervisors.base import Hypervisor

__all__ = ["ImageLevel"]


class ImageLevel(Hypervisor):
    """Handles nothing in Python: what it wants of its guest its control blocks say as it runs.

    name:  its file's
    """

    def __init__(self, name: str) -> None:
        self.name = name

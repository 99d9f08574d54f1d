"""What an access to memory needs, and what a range of memory gives."""

from __future__ import annotations

from enum import Flag

__all__ = ["Rights"]


class Rights(Flag):
    """By the numbers of EPT entries (Intel SDM vol. 3, 28.3.2) and of NV_RIGHT_* in native/shadow.h."""

    READ = 1
    WRITE = 2
    EXECUTE = 4
    ALL = READ | WRITE | EXECUTE

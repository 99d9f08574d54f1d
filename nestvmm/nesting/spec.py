"""What a user asks for: a tower as plain data, before anything is opened or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nestvmm.errors import UsageError
from nestvmm.nesting.memory import ADDRESS_END, PAGE_SIZE, Region

__all__ = ["LEVELS_MAX", "GuestSpec", "LevelSpec", "Option", "TowerSpec"]

#: The highest level that a guest can be at; one byte holds a level in native/event.h.
LEVELS_MAX = 64

Option = str | int | bool


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """The software at level n, and the memory of the whole tower.

    Raises UsageError for memory that is no positive number of whole pages, or more than half of all physical addresses.

    kernel:   image file
    append:   its command line
    initrd:   initial RAM disk of a bzImage, or `file arg,file2 arg` modules of a Multiboot image
    address:  guest-physical address of a raw binary; None for the formats that know their own
    memory:   L0's RAM for the tower, in bytes
    """

    kernel: Path
    append: str = ""
    initrd: str | None = None
    address: int | None = None
    memory: int = 128 << 20

    def __post_init__(self) -> None:
        """Refuses memory that no machine has."""
        if self.memory <= 0 or self.memory % PAGE_SIZE:
            raise UsageError(f"{self.memory} bytes of RAM: give whole pages of {PAGE_SIZE} bytes, such as 64M")
        if self.memory > ADDRESS_END // 2:
            raise UsageError(f"{self.memory >> 20} MiB of RAM: more than the physical addresses of a machine")


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """A hypervisor: its class, its options, and what of its memory its guest gets (None: all, at its addresses).

    expose: features that it exposes or hides, `+feature` or `-feature`
    image:  machine code that uses SVM or VMX, in place of a class, with its command line `append`
    """

    hypervisor: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    memory: tuple[Region, ...] | None = None
    expose: tuple[str, ...] = ()
    image: Path | None = None
    append: str = ""


@dataclass(frozen=True, slots=True)
class TowerSpec:
    """A tower: hypervisors at levels 1 to n-1, the guest at level n, and the policy of L0.

    Raises UsageError for more levels than LEVELS_MAX.

    engine:       auto, direct, svm or vmx
    machine:      auto (what the image format expects), pc or bare
    unclaimed:    what becomes of accesses that nobody claims: `ignore` answers as an empty bus, `error` ends the run
    timeout:      seconds after which the run ends with status 124; None: never
    designate:    designations, `REASON[:QUALIFIER]=Ln`
    expose:       features that levels expose or hide, `Ln:+feature,-feature`
    io_intercepts: ports that levels claim are intercepted before the access happens, where the engine can: a handler
                  then sees the processor's own exit, and each access costs two more world switches
    """

    guest: GuestSpec
    levels: tuple[LevelSpec, ...] = ()
    designate: tuple[str, ...] = ()
    engine: str = "auto"
    machine: str = "auto"
    unclaimed: str = "ignore"
    timeout: float | None = None
    expose: tuple[str, ...] = ()
    io_intercepts: bool = False

    def __post_init__(self) -> None:
        """Refuses what no event could name."""
        if self.height > LEVELS_MAX:
            raise UsageError(f"{len(self.levels)} levels of hypervisors; at most {LEVELS_MAX - 1} fit under a guest")

    @property
    def height(self) -> int:
        """n: the guest's level."""
        return len(self.levels) + 1

    @property
    def code(self) -> tuple[int, ...]:
        """The levels whose software is machine code, ascending: the images, and the guest."""
        images = [number for number, level in enumerate(self.levels, start=1) if level.image is not None]
        return (*images, self.height)

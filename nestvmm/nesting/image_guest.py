"""What a Python hypervisor above an image sees of its guest: a machine that the image makes and runs."""

from __future__ import annotations

from typing import NoReturn

from nestvmm.engines import Engine
from nestvmm.hypervisors import GuestAccessError
from nestvmm.nesting.guest_view import GuestView
from nestvmm.x86.rights import Rights

__all__ = ["ImageGuestView", "MachineMemory"]

_ACTIVE = -1


class MachineMemory:
    """The physical memory of level `level`, as the images below it map it at this moment.

    depth:  of the machine that it is, by native/nested.h; the one that runs unless given
    """

    def __init__(self, level: int, engine: Engine, depth: int = _ACTIVE) -> None:
        self.level = level
        self._engine = engine
        self._depth = depth

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes; raises GuestAccessError where memory is missing, or the level's image does not run it now."""
        data = self._engine.read_machine(self._depth, address, size) if self._sane(address, size) else None
        if data is None:
            raise GuestAccessError(f"L{self.level} physical memory {address:#x}+{size:#x}: it has not all of that")
        return data

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Writes; raises GuestAccessError, when part of it may be written, where that is not possible."""
        size = len(data)
        if not self._sane(address, size) or not self._engine.write_machine(self._depth, address, bytes(data)):
            raise GuestAccessError(f"L{self.level} physical memory {address:#x}+{size:#x}: it cannot write all of that")

    @staticmethod
    def _sane(address: int, size: int) -> bool:
        return 0 <= address < 1 << 52 and 0 <= size < 1 << 32


class ImageGuestView(GuestView):
    """As GuestView, without what belongs to the image that runs the guest: its memory map and its interrupts."""

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(f"L{self.level - 1} stands above an image, which decides on its guest's {what}")

    def map(self, base: int, size: int, to: int, rights: Rights = Rights.ALL) -> None:
        """Refused."""
        self._refuse("memory")

    def protect(self, base: int, size: int, rights: Rights) -> None:
        """Refused."""
        self._refuse("memory")

    def unmap(self, base: int, size: int) -> None:
        """Refused."""
        self._refuse("memory")

    def line(self, number: int, level: bool) -> None:
        """Refused."""
        self._refuse("interrupts")

    def interrupt(self, vector: int) -> None:
        """Refused."""
        self._refuse("interrupts")

    def nmi(self) -> None:
        """Refused."""
        self._refuse("NMIs")

    def request_interrupt_window(self) -> None:
        """Refused."""
        self._refuse("interrupts")

    def request_nmi_window(self) -> None:
        """Refused."""
        self._refuse("NMIs")

    def request_timer(self, cycles: int) -> None:
        """Refused."""
        self._refuse("timer")

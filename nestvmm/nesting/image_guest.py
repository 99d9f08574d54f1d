"""What a Python hypervisor above an image sees of its guest: a machine that the image makes and runs."""

from __future__ import annotations

from nestvmm.engines import Engine
from nestvmm.hypervisors import GuestAccessError
from nestvmm.nesting.guest_view import GuestView
from nestvmm.nesting.levels import LevelMemory
from nestvmm.nesting.memory import MemoryMap
from nestvmm.x86.rights import Rights

__all__ = ["ImageGuestView", "ImageMemory", "MachineMemory"]

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
            raise GuestAccessError(_lacks(self.level, address, size))
        return data

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Writes; raises GuestAccessError, when part of it may be written, where that is not possible."""
        size = len(data)
        if not self._sane(address, size) or not self._engine.write_machine(self._depth, address, bytes(data)):
            raise GuestAccessError(_not_writable(self.level, address, size))

    @staticmethod
    def _sane(address: int, size: int) -> bool:
        return 0 <= address < 1 << 52 and 0 <= size < 1 << 32


class _MissingError(Exception):
    """The image does not give an address."""


class _Beneath:
    """What the image below gives the machine at a depth."""

    def __init__(self, engine: Engine, depth: int) -> None:
        self._engine = engine
        self._depth = depth

    def read(self, offset: int, size: int) -> bytes:
        data = self._engine.read_machine(self._depth, offset, size, beneath=True)
        if data is None:
            raise _MissingError
        return data

    def write(self, offset: int, data: bytes | memoryview) -> None:
        if not self._engine.write_machine(self._depth, offset, bytes(data), beneath=True):
            raise _MissingError


class ImageMemory(LevelMemory):
    """The physical memory of a level above an image: through the Python levels between, as the image maps it then.

    to_host:  its addresses to those that the image gives
    depth:    of the machine that these levels run
    """

    def __init__(self, level: int, to_host: MemoryMap, engine: Engine, depth: int) -> None:
        super().__init__(level, to_host, _Beneath(engine, depth))

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes; raises GuestAccessError where memory is missing, or the image does not run its guest now."""
        try:
            return super().read(address, size)
        except _MissingError:
            raise GuestAccessError(_lacks(self.level, address, size)) from None

    def write(self, address: int, data: bytes | memoryview, *, rights: Rights = Rights.WRITE) -> None:
        """Writes; raises GuestAccessError, when part of it may be written, where that is not possible."""
        try:
            super().write(address, data, rights=rights)
        except _MissingError:
            raise GuestAccessError(_not_writable(self.level, address, len(data))) from None


def _lacks(level: int, address: int, size: int) -> str:
    return f"L{level} physical memory {address:#x}+{size:#x}: it has not all of that"


def _not_writable(level: int, address: int, size: int) -> str:
    return f"L{level} physical memory {address:#x}+{size:#x}: it cannot write all of that"


class ImageGuestView(GuestView):
    """As GuestView, without interrupt lines."""

    @property
    def _space(self) -> int:
        return self._maps.space(self.level)

    def line(self, number: int, level: bool) -> None:
        """Refused: a line leads to an interrupt controller, and L0's is that of the lowest image."""
        raise ValueError(
            f"L{self.level - 1} stands above an image, so there is no line {number}: L0's interrupt controller is the "
            f"lowest image's, and L{self.level} has none but what levels below emulate; Guest.interrupt reaches it"
        )

    def interrupt(self, vector: int) -> None:
        """Queues an external interrupt, whatever the lowest machine has: the level's guest takes it by its IDT."""
        if not 0 <= vector <= 255:
            raise ValueError(f"interrupt vector {vector} is not within 0 to 255")
        self._engine.inject_above(self._space, vector)

    def nmi(self) -> None:
        """Injects an NMI."""
        self._engine.inject_above(self._space, None)

    def request_interrupt_window(self) -> None:
        """Asks for one event when its guest can take an interrupt."""
        self._engine.request_window_above(self._space, nmi=False)

    def request_nmi_window(self) -> None:
        """Asks for one event when its guest can take an NMI."""
        self._engine.request_window_above(self._space, nmi=True)

    def request_timer(self, cycles: int) -> None:
        """Asks for one event when its guest, or what that runs, has run so long."""
        self._engine.request_timer_above(self._space, cycles)

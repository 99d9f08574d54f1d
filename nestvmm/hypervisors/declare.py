"""Declares the handlers of a Python hypervisor, per reason and qualifier.

    class Clock(Hypervisor):
        @on_io(0x5000, 4, direction=Direction.READ)
        def ticks(self, event: Event) -> Result:
            return Result.read(self.count)

A handler sees its events in its own coordinates: its guest is level x+1, and physical addresses are level x+1's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nestvmm.x86.event import Direction, Event, Result
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.instruction import key_range

__all__ = [
    "Declaration",
    "declarations",
    "on",
    "on_debug",
    "on_instruction",
    "on_io",
    "on_mmio",
    "on_rdmsr",
    "on_wrmsr",
]

_Method = TypeVar("_Method", bound=Callable[[Any, Event], Result])

# reason, first and last qualifier, direction
Declaration = tuple[ExitReason, int, int, Direction | None]

_ALL = (1 << 64) - 1
_ATTRIBUTE = "_nestvmm_declarations"


def _declare(declaration: Declaration) -> Callable[[_Method], _Method]:
    def mark(method: _Method) -> _Method:
        setattr(method, _ATTRIBUTE, (*getattr(method, _ATTRIBUTE, ()), declaration))
        return method

    return mark


def on(
    reason: ExitReason, first: int = 0, last: int = _ALL, direction: Direction | None = None
) -> Callable[[_Method], _Method]:
    """The method handles events of this reason with a qualifier from first to last (both included)."""
    if not 0 <= first <= last <= _ALL:
        raise ValueError(f"qualifiers {first:#x} to {last:#x} are no range of 64-bit numbers")
    return _declare((reason, first, last, direction))


def on_io(port: int, count: int = 1, direction: Direction | None = None) -> Callable[[_Method], _Method]:
    """The method handles IN (READ) and OUT (WRITE) at `count` ports from `port` on (0 to 0xffff)."""
    if not 0 <= port < port + count <= 0x10000:
        raise ValueError(f"ports {port:#x}+{count} are not within 0 to 0xffff")
    return on(ExitReason.IO, port, port + count - 1, direction)


def on_mmio(address: int, size: int, direction: Direction | None = None) -> Callable[[_Method], _Method]:
    """The method handles accesses to `size` bytes of the guest's physical addresses.

    The hypervisor does not back the pages that they lie in with memory.
    """
    if not 0 <= address < address + size <= 1 << 52:
        raise ValueError(f"addresses {address:#x}+{size:#x} are not within 52 bits")
    return on(ExitReason.MMIO, address, address + size - 1, direction)


def on_rdmsr(index: int, last: int | None = None) -> Callable[[_Method], _Method]:
    """The method handles RDMSR of the MSRs from index to last (both included; 0 to 0xffffffff)."""
    return _on_msrs(ExitReason.RDMSR, index, last)


def on_wrmsr(index: int, last: int | None = None) -> Callable[[_Method], _Method]:
    """The method handles WRMSR of the MSRs from index to last (both included; 0 to 0xffffffff)."""
    return _on_msrs(ExitReason.WRMSR, index, last)


def _on_msrs(reason: ExitReason, index: int, last: int | None) -> Callable[[_Method], _Method]:
    last = index if last is None else last
    if not 0 <= index <= last <= 0xFFFFFFFF:
        raise ValueError(f"MSRs {index:#x} to {last:#x} are not within 0 to 0xffffffff")
    return on(reason, index, last)


def on_debug(vector: int) -> Callable[[_Method], _Method]:
    """The method handles debug events of the vector: 1, behind each instruction of its guest's, or 3, at each INT3.

    The event's value is the linear address of RIP, its information DR6 as a single step sets it. An INT3 that is
    handled comes again unless the handler moves RIP.
    """
    if vector not in (1, 3):
        raise ValueError(f"debug vector {vector} is neither 1 nor 3")
    return on(ExitReason.DEBUG, vector, vector)


def on_instruction(prefix: bytes) -> Callable[[_Method], _Method]:
    """The method handles instructions that KVM failed to emulate and that begin with these 1 to 8 bytes.

    Prefixes that do not tell instructions apart are left out on both sides: `f3 0f b8` is POPCNT of any size, with any
    segment and registers (see nestvmm.x86.instruction).
    """
    return on(ExitReason.EMULATION_FAILURE, *key_range(prefix))


def declarations(owner: type) -> list[tuple[str, Declaration]]:
    """The method names of a class and what each of them declared to handle, base classes included."""
    found = []
    for name in dir(owner):
        for declaration in getattr(getattr(owner, name), _ATTRIBUTE, ()):
            found.append((name, declaration))
    return found

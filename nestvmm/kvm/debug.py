"""Breakpoints in the debug registers (AMD APM vol. 2, 13.1.1; Intel SDM vol. 3, 18.2.4)."""

from __future__ import annotations

from collections.abc import Sequence

from nestvmm.kvm.record import Value

__all__ = ["BREAK_ACCESS", "BREAK_EXECUTE", "BREAK_WRITE", "Breakpoint", "debug_registers"]

# DR7's R/W fields
BREAK_EXECUTE = 0
BREAK_WRITE = 1
BREAK_ACCESS = 3

_LENGTHS = {1: 0, 2: 1, 4: 3, 8: 2}
_MOST = 4


class Breakpoint(Value):
    """A hardware breakpoint at a linear address, a multiple of its length: 1, 2, 4 or 8 bytes, 1 to execute."""

    address: int
    kind: int = BREAK_EXECUTE
    length: int = 1


def debug_registers(breakpoints: Sequence[Breakpoint]) -> list[int]:
    """DR0 to DR7 for at most four breakpoints. Raises ValueError for what the processor cannot watch."""
    if len(breakpoints) > _MOST:
        raise ValueError(f"{len(breakpoints)} breakpoints: the processor has {_MOST}")
    registers = [0] * 8
    registers[7] = 0x400  # a bit that is always set
    for number, breakpoint_ in enumerate(breakpoints):
        if breakpoint_.kind not in (BREAK_EXECUTE, BREAK_WRITE, BREAK_ACCESS):
            raise ValueError(f"{breakpoint_}: kind must be 0, 1 or 3")
        if breakpoint_.length not in _LENGTHS or (breakpoint_.kind == BREAK_EXECUTE and breakpoint_.length != 1):
            raise ValueError(f"{breakpoint_}: length must be 1, 2, 4 or 8 bytes, and 1 to execute")
        if breakpoint_.address % breakpoint_.length:
            raise ValueError(f"{breakpoint_}: the address must be a multiple of the length")
        registers[number] = breakpoint_.address
        registers[7] |= 2 << number * 2  # enabled globally
        registers[7] |= (breakpoint_.kind | _LENGTHS[breakpoint_.length] << 2) << 16 + number * 4
    return registers

"""What a VMCB intercepts for wanted events: the vectors of bits, the I/O and the MSR permissions map.

AMD APM vol. 2, 15.9 to 15.11.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nestvmm.engines.engine import MsrRange
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.exit_row import ExitRow, Handlers
from nestvmm.x86.scope import Scope
from nestvmm.x86.svm_exits import SVM_EXITS

__all__ = ["msr_map", "port_map", "vectors"]

_VECTORS: Final = 6
_MSR_MAP_SIZE: Final = 0x2000
_PORT_MAP_SIZE: Final = 0x3000

# First MSR, last MSR, and where its bits start; each MSR has two, for reads and for writes (15.11).
_MAPPED: Final = ((0, 0x1FFF, 0), (0xC0000000, 0xC0001FFF, 0x800), (0xC0010000, 0xC0011FFF, 0x1000))


def vectors(wanted: Iterable[Scope]) -> list[int]:
    """The words of the intercept vectors: each exit code that may be one of the wanted events has its bit set."""
    words = [0] * _VECTORS
    scopes = list(wanted)
    for row in SVM_EXITS.values():
        if row.code < 32 * _VECTORS and row.handlers is not Handlers.NEVER and any(_meets(row, one) for one in scopes):
            words[row.code // 32] |= 1 << row.code % 32
    return words


def _meets(row: ExitRow, scope: Scope) -> bool:
    """Whether an exit of this code may be an event of the scope."""
    qualifier = row.qualifier()
    if scope.reason not in row.reasons:
        return False
    if qualifier is not None:
        return scope.covers(scope.reason, qualifier, row.direction)
    return len(row.reasons) > 1 or scope.reason is ExitReason.IO or scope.includes(row.direction)


def msr_map(ranges: Iterable[MsrRange]) -> bytes:
    """The MSR permissions map that intercepts these; MSRs that it has no bits for are intercepted anyway."""
    bits = bytearray(_MSR_MAP_SIZE)
    for one in ranges:
        for first, last, start in _MAPPED:
            for index in range(max(one.first, first), min(one.last, last) + 1):
                place, shift = divmod(2 * (index - first), 8)
                bits[start + place] |= (one.read | one.write << 1) << shift
    return bytes(bits)


def port_map(scopes: Iterable[Scope]) -> bytes:
    """The I/O permissions map that intercepts the ports of these scopes; it knows no directions."""
    bits = 0
    for scope in scopes:
        if scope.reason is ExitReason.IO and scope.first <= 0xFFFF:
            last = min(scope.last, 0xFFFF)
            bits |= (1 << last + 1) - (1 << scope.first)
    return bits.to_bytes(_PORT_MAP_SIZE, "little")

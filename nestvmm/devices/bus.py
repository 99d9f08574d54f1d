"""Which device answers which ports of L0."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

from nestvmm.devices.device import Device
from nestvmm.errors import UsageError

__all__ = ["Bus", "Claim"]

PORTS: Final = 0x10000


class Claim(NamedTuple):
    """Ports first to last, both included, and the device that sees offsets from first."""

    first: int
    last: int
    device: Device


class Bus:
    """The devices of L0 and their ports, no port with two."""

    def __init__(self) -> None:
        self._claims: list[Claim] = []

    def add(self, first: int, count: int, device: Device) -> None:
        """Put a device at `count` ports from `first` on; raises UsageError when they are not all free, or not ports."""
        claim = Claim(first, first + count - 1, device)
        where = f"{device.name}: ports {claim.first:#x} to {claim.last:#x}"
        if first < 0 or count < 1 or claim.last >= PORTS:
            raise UsageError(f"{where} are not a range within 0 to 0xffff: give a first port and how many there are")
        at = bisect_left(self._claims, claim.first, key=lambda other: other.last)
        if at < len(self._claims) and self._claims[at].first <= claim.last:
            other = self._claims[at]
            raise UsageError(
                f"{where} overlap {other.first:#x} to {other.last:#x} of {other.device.name}: move one of the two"
            )
        self._claims.insert(at, claim)

    def claims(self) -> tuple[Claim, ...]:
        """What level 0 claims, by port."""
        return tuple(self._claims)

"""What a feature is, and how a level sees that it has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nestvmm.kvm import CpuidEntry

__all__ = ["OUR_LEAF", "CpuidBit", "Feature", "MsrBit"]

#: CPUID leaf of what only L0 has, in the range that hypervisors share: EAX is the last of them, EBX ECX EDX the
#: signature "nestvmmL0"; EAX of the next leaf has a bit for each feature.
OUR_LEAF = 0x40004E00
_SIGNATURE = b"nestvmmL0\0\0\0"


class CpuidBit(NamedTuple):
    """A feature shows as this bit of CPUID."""

    leaf: int
    subleaf: int
    register: str
    bit: int

    @property
    def label(self) -> str:
        """As cpuid-policy writes it, such as `7.ebx.5`."""
        subleaf = f":{self.subleaf:x}" if self.subleaf else ""
        return f"{self.leaf:x}{subleaf}.{self.register}.{self.bit}"

    def is_set(self, entries: Sequence[CpuidEntry], msrs: Mapping[int, int]) -> bool:
        """Whether this CPUID shows it."""
        entry = self._entry(entries)
        return entry is not None and bool(getattr(entry, self.register) >> self.bit & 1)

    def put(self, entries: list[CpuidEntry], *, on: bool) -> None:
        """Sets or clears it; a leaf that is missing is made to set one of ours, and the others' last leaves move."""
        entry = self._entry(entries)
        if entry is None:
            if not on:
                return
            entry = _add_leaf(entries, self.leaf, self.subleaf)
        value = getattr(entry, self.register)
        setattr(entry, self.register, value | 1 << self.bit if on else value & ~(1 << self.bit))

    def _entry(self, entries: Sequence[CpuidEntry]) -> CpuidEntry | None:
        return next((one for one in entries if (one.function, one.index) == (self.leaf, self.subleaf)), None)


class MsrBit(NamedTuple):
    """A feature shows as this bit of a feature MSR."""

    msr: int
    bit: int

    @property
    def label(self) -> str:
        """Such as `MSR 10a.0`."""
        return f"MSR {self.msr:x}.{self.bit}"

    def is_set(self, entries: Sequence[CpuidEntry], msrs: Mapping[int, int]) -> bool:
        """Whether this MSR shows it."""
        return bool(msrs.get(self.msr, 0) >> self.bit & 1)


class Feature(NamedTuple):
    """One feature.

    name:      the manuals' word for its bit, in lower case; for what is ours, our own
    shown:     the bit that shows it to a level
    meaning:   what it is, in a few words
    within:    the name of a feature of the hardware that contains it: hardware with that one has this one
    """

    name: str
    shown: CpuidBit | MsrBit
    meaning: str
    within: str = ""


def _add_leaf(entries: list[CpuidEntry], leaf: int, subleaf: int) -> CpuidEntry:
    """An empty leaf, reachable by the last-leaf number of its range."""
    base = OUR_LEAF if leaf & ~0xFF == OUR_LEAF else leaf & 0x80000000
    first = next((one for one in entries if one.function == base), None)
    if first is None:
        ebx, ecx, edx = (int.from_bytes(_SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
        first = CpuidEntry(function=base, ebx=ebx, ecx=ecx, edx=edx)
        entries.append(first)
    first.eax = max(first.eax, leaf)
    entry = CpuidEntry(function=leaf, index=subleaf, flags=int(leaf in (7, 0xD)))
    entries.append(entry)
    return entry

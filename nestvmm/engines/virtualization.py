"""How CPUID shows that a processor has SVM or VMX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from nestvmm.kvm import CpuidEntry

__all__ = ["SVM", "VMX", "Virtualization"]


class Virtualization(NamedTuple):
    """A vendor's, which shows as a bit of a leaf's ECX.

    leaf:  the leaf's number
    mask:  the bit
    """

    leaf: int
    mask: int

    def shown(self, entries: Iterable[CpuidEntry]) -> bool:
        """Whether these leaves show it."""
        return any(entry.function == self.leaf and entry.ecx & self.mask for entry in entries)

    def put(self, entries: Iterable[CpuidEntry], *, on: bool) -> None:
        """Makes these leaves show it, or not; one that is missing stays missing."""
        for entry in entries:
            if entry.function == self.leaf:
                entry.ecx = entry.ecx | self.mask if on else entry.ecx & ~self.mask


#: AMD APM vol. 3, E.4.2.
SVM: Final = Virtualization(0x80000001, 1 << 2)
#: Intel SDM vol. 3, 24.6.
VMX: Final = Virtualization(1, 1 << 5)

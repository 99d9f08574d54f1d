"""Figures that others published, to stand beside those that are measured here. They are of other machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from nestvmm.bench.case import Choice, Step
from nestvmm.bench.row import CASCADE, Row

__all__ = ["Published"]

_DVH: Final = (
    "Lim and Nieh, Optimizing Nested Virtualization Performance Using Direct Virtual Hardware, ASPLOS 2020, table 3"
)
# Cycles of a hypercall of the guest at level 1, 2, 3; KVM on Intel Xeon E5-2640 v4 (see there).
_HYPERCALL: Final = {1: 1575.0, 2: 37733.0, 3: 857578.0}


@dataclass(frozen=True, slots=True)
class Published:
    """KVM nested in KVM, a hypercall to the hypervisor below the guest."""

    name: ClassVar[str] = "published"
    about: ClassVar[str] = "published figures of KVM nested in KVM, measured on another machine"

    def steps(self, choice: Choice) -> Iterator[Step]:
        """Nothing is measured."""
        yield Step("DVH", _rows)


def _rows() -> list[Row]:
    return [
        Row(
            "hypercall",
            f"published, L{level}",
            system="published",
            engine="kvm",
            level=level,
            handler="KVM",
            handler_level=level - 1,
            mode=CASCADE,
            clock="guest",
            runs=(cycles,),
            note="another machine's",
            source=_DVH,
        )
        for level, cycles in _HYPERCALL.items()
    ]

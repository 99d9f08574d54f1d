"""Figures that others published, to stand beside those that are measured here. They are of other machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final

from nestvmm.bench.case import RUNS, Choice, Step
from nestvmm.bench.goals import PORT_AND_KVMTOOL
from nestvmm.bench.row import CASCADE, Row, compare
from nestvmm.bench.rtt import on_levels
from nestvmm.x86.layout import PORT_POST

__all__ = ["Published"]

_DVH: Final = (
    "Lim and Nieh, Optimizing Nested Virtualization Performance Using Direct Virtual Hardware, ASPLOS 2020, table 3"
)
# Cycles of a hypercall of the guest at level 1, 2, 3; KVM on Intel Xeon E5-2640 v4 (see there).
_HYPERCALL: Final = {1: 1575.0, 2: 37733.0, 3: 857578.0}


# Cycles of a port read at level 1 that kvmtool serves, by guests/rtt in the SVM lab under icount.
_KVMTOOL: Final = 3345.0
_KVMTOOL_NOTE: Final = "measured in this lab once"
_COUNT: Final = 1000


@dataclass(frozen=True, slots=True)
class Published:
    """KVM nested in KVM, a hypercall to the hypervisor below the guest; and kvmtool where figures repeat."""

    name: ClassVar[str] = "published"
    about: ClassVar[str] = "published figures of KVM nested in KVM, and kvmtool's of the SVM lab under icount"

    def steps(self, choice: Choice) -> Iterator[Step]:
        """Of the first, nothing is measured."""
        yield Step("DVH", _dvh)
        if choice.icount:
            yield Step("kvmtool", partial(_kvmtool, choice))


def _kvmtool(choice: Choice) -> list[Row]:
    runs = choice.runs or RUNS
    row = Row("port", "kvmtool, L1", level=1, handler_level=0, clock="guest", us_per_unit=choice.us_per_cycle)
    reference = replace(row, system="kvmtool", engine="kvm", handler="kvmtool", runs=(_KVMTOOL,), note=_KVMTOOL_NOTE)
    figures = on_levels(choice.guests, f"port-in at={PORT_POST[0]:#x}", runs=runs, count=_COUNT)
    own = replace(row, what="nestvmm, L1, against kvmtool", engine="direct", handler="C", runs=figures.guest)
    return [reference, compare(own, replace(reference, runs=(_KVMTOOL,) * runs), PORT_AND_KVMTOOL.most)]


def _dvh() -> list[Row]:
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

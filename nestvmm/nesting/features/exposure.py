"""Who sees which feature: L0 exposes both sets to level 1, each level passes on what it sees unless it hides it.

A level's hypervisor hides a feature by its `expose` list, or by clearing the feature's bit in `Hypervisor.cpuid`. What
is hidden at one level is hidden from all above it, whatever they ask for. A bit that a hypervisor sets without seeing
the feature stays in CPUID, but gets it no emulation by L0: that hypervisor must do it itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nestvmm.engines import Engine
from nestvmm.errors import HypervisorError, UsageError
from nestvmm.hypervisors import Hypervisor
from nestvmm.hypervisors.blame import blaming
from nestvmm.kvm import CpuidEntry
from nestvmm.nesting.features.catalog import CATALOG
from nestvmm.nesting.features.feature import CpuidBit, MsrBit
from nestvmm.nesting.features.offer import Offer, make_offer
from nestvmm.nesting.features.request import Request

__all__ = ["Exposure", "Gone", "ask_cpuid", "expose"]


class Gone(NamedTuple):
    """Where the chain of exposure breaks: level 0 with L0's reason, or the level that hides the feature, and how."""

    level: int
    why: str

    @property
    def text(self) -> str:
        """For a message."""
        return f"L{self.level} {self.why}"


class Exposure:
    """What the levels 1 to n see, worked out from L0 upward: call `pass_on` for each level's hypervisor in turn.

    entries:   CPUID as the highest level so far sees it
    Raises UsageError for a feature that a level is to expose and does not see, with the level that breaks the chain.
    """

    def __init__(self, offer: Offer, requests: Sequence[Request]) -> None:
        self.offer = offer
        self._requests = requests
        self._gone: dict[str, Gone] = {
            name: Gone(0, f"does not have it: {offer.why_not(name)}") for name in CATALOG if not offer.has(name)
        }
        self._seen: list[frozenset[str]] = [frozenset(CATALOG.keys() - self._gone.keys())]
        self.entries: list[CpuidEntry] = list(offer.entries)
        self.pass_on(self.entries, "")

    @property
    def height(self) -> int:
        """The highest level whose view is known."""
        return len(self._seen) - 1

    def seen(self, level: int) -> frozenset[str]:
        """The features that level `level` sees; of level 0: those that L0 has."""
        return self._seen[level]

    def levels(self, name: str) -> frozenset[int]:
        """The levels from 1 on that see it."""
        return frozenset(level for level in range(1, self.height + 1) if name in self._seen[level])

    def gone(self, name: str, level: int) -> Gone | None:
        """Why level `level` does not see a feature; None: it does."""
        return None if name in self._seen[level] else self._gone[name]

    def pass_on(self, entries: list[CpuidEntry], who: str) -> None:
        """The highest level so far exposes to the next one; its hypervisor `who` made `entries` of its CPUID."""
        level = self.height
        request = self._requests[level]
        before = self._seen[level]
        after = set()
        for name, wanted in request.items():
            if wanted and name not in before:
                raise UsageError(f"expose L{level}:+{name}: {self._gone[name].text}")
        for name in before:
            shown = CATALOG[name].shown
            wanted_or_none = request.get(name)
            cleared = level > 0 and isinstance(shown, CpuidBit) and not shown.is_set(entries, {})
            if wanted_or_none is False:
                self._gone[name] = Gone(level, "hides it from the levels above it")
            elif cleared and wanted_or_none is None:
                self._gone[name] = Gone(level, f"{who} clears its CPUID bit for the levels above it")
            else:
                after.add(name)
        for name, feature in CATALOG.items():
            hidden = name in before and name not in after
            if isinstance(feature.shown, CpuidBit) and (hidden or name in after):
                feature.shown.put(entries, on=name in after)
        self.entries = entries
        self._seen.append(frozenset(after))

    def msrs(self, level: int) -> Mapping[int, int]:
        """The feature MSRs that level `level` must be given other values of than KVM offers."""
        values: dict[int, int] = {}
        for name, feature in CATALOG.items():
            shown = feature.shown
            if isinstance(shown, MsrBit) and name in self.offer.first and name not in self._seen[level]:
                value = values.get(shown.msr, self.offer.msrs[shown.msr])
                values[shown.msr] = value & ~(1 << shown.bit)
        return values


def ask_cpuid(level: int, hypervisor: Hypervisor, entries: list[CpuidEntry]) -> list[CpuidEntry]:
    """What the hypervisor makes of these leaves; raises HypervisorError when it raises or gives something else."""
    who = type(hypervisor).__name__
    with blaming(level, who, "cpuid()"):
        answer = hypervisor.cpuid(entries)
    if not isinstance(answer, list) or not all(isinstance(entry, CpuidEntry) for entry in answer):
        raise HypervisorError(f"L{level} {who} answered {answer!r:.60} in cpuid(); it must return a list of CpuidEntry")
    return answer


def expose(
    engine: Engine, hypervisors: Sequence[Hypervisor], requests: Sequence[Request], lowest: int | None = None
) -> Exposure:
    """What every level of a tower sees on this engine.

    lowest:  of the levels of machine code: what those above it make of CPUID is known when they are asked

    Raises UsageError for what cannot be exposed, and as `ask_cpuid` does.
    """
    exposure = Exposure(make_offer(engine), requests)
    for level, hypervisor in enumerate(hypervisors, start=1):
        entries = exposure.entries
        if lowest is None or level < lowest:
            entries = ask_cpuid(level, hypervisor, entries)
        exposure.pass_on(entries, type(hypervisor).__name__)
    return exposure

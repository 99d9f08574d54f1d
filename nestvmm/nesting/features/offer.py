"""What L0 can expose to level 1: the first set, which is the hardware's as KVM offers it, and the second, L0's own.

L0 does not claim to have what this engine and this KVM do not let it emulate: an instruction must run, or be handed
over, at CPL 0 and at CPL 3 alike. KVM-PVM hands over what it cannot interpret at CPL 0 and runs CPL 3 natively.
kvm_amd and kvm_intel run both natively, so an instruction that such a processor lacks is #UD: the svm and vmx engines
intercept that, the direct engine cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass

from nestvmm.engines import Engine, Trial
from nestvmm.kvm import CpuidEntry
from nestvmm.nesting.features.catalog import CATALOG
from nestvmm.nesting.features.emulator import Emulator
from nestvmm.nesting.features.feature import CpuidBit
from nestvmm.nesting.features.registry import EMULATORS
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Offer", "make_offer"]

_WORKS = frozenset({Trial.RUNS, Trial.HANDED_OVER})
_MSRS = frozenset({ExitReason.RDMSR, ExitReason.WRMSR})


@dataclass(frozen=True)
class Offer:
    """Both feature sets.

    entries, msrs:  KVM's CPUID and feature MSRs
    first:          names of what they show
    second:         names of what L0 emulates, where it is handed over, the engine's own included
    runs:           those of the second set that run without L0, although KVM does not list them
    lacks:          why L0 has not what is in neither, for features that it has an emulator of
    """

    entries: list[CpuidEntry]
    msrs: Mapping[int, int]
    first: frozenset[str]
    second: frozenset[str]
    runs: frozenset[str]
    lacks: Mapping[str, str]

    def has(self, name: str) -> bool:
        """Whether level 1 can see it."""
        return name in self.first or name in self.second

    def why_not(self, name: str) -> str:
        """Why L0 has not got it."""
        return self.lacks.get(name, "the hardware or its KVM lacks it, and L0 has no emulator of it")


def make_offer(engine: Engine) -> Offer:
    """Asks KVM, and tries what has to be tried."""
    entries = engine.supported_cpuid()
    msrs = engine.feature_msrs()
    first = {name for name, feature in CATALOG.items() if feature.shown.is_set(entries, msrs)}
    first |= {name for name, feature in CATALOG.items() if feature.within in first}
    lacks: dict[str, str] = {}
    to_try: list[type[Emulator]] = []
    for name, emulator in EMULATORS.items():
        if emulator.trials and name not in first:
            to_try.append(emulator)
        if not engine.filters_msrs() and any(scope.reason in _MSRS for scope in emulator.scopes):
            lacks[name] = "this KVM has no MSR filter that exits to userspace"
    runs = {emulator.feature for emulator in to_try}
    for name, outcomes in _try(engine, entries, to_try):
        faults = [f"CPL {cpl}" for cpl, outcome in zip((0, 3), outcomes, strict=True) if outcome not in _WORKS]
        if faults:
            what = Trial.UNDEFINED.value if Trial.FAULTS not in outcomes else Trial.FAULTS.value
            lacks[name] = f"it {what} at {' and '.join(faults)}, which the {engine.name} engine cannot intercept"
        if outcomes != (Trial.RUNS, Trial.RUNS):
            runs.discard(name)
    second = (EMULATORS.keys() - lacks.keys()) | engine.emulates
    return Offer(entries, msrs, frozenset(first), frozenset(second), frozenset(runs), lacks)


def _try(
    engine: Engine, entries: list[CpuidEntry], emulators: list[type[Emulator]]
) -> Iterator[tuple[str, tuple[Trial, Trial]]]:
    """What each instruction of these emulators does, at CPL 0 and at CPL 3, where CPUID shows all of the features."""
    if not emulators:
        return
    shown = [copy(entry) for entry in entries]
    trials = []
    for emulator in emulators:
        bit = CATALOG[emulator.feature].shown
        if isinstance(bit, CpuidBit):
            bit.put(shown, on=True)
        trials += [(emulator.feature, code) for code in emulator.trials]
    outcomes = engine.try_instructions([code for _, code in trials], shown)
    yield from zip((name for name, _ in trials), outcomes, strict=True)

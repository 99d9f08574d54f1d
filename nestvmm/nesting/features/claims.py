"""L0's claims on the events of its emulators: level 0, below all others, so a hypervisor may still take one itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nestvmm.engines import MsrRange
from nestvmm.engines.msr_filter import msr_ranges
from nestvmm.nesting.designation import Claim
from nestvmm.nesting.features.cpu import Cpu
from nestvmm.nesting.features.emulator import Emulator
from nestvmm.nesting.features.exposure import Exposure
from nestvmm.nesting.features.registry import EMULATORS
from nestvmm.x86.event import Event, Outcome, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Refusal", "emulated_msrs", "emulates_instructions", "feature_claims"]


def emulated_msrs(emulators: Mapping[str, type[Emulator]] = EMULATORS) -> list[MsrRange]:
    """The MSRs of all emulators: they must exit also at a level that does not see the feature."""
    return msr_ranges(scope for emulator in emulators.values() for scope in emulator.scopes)


def emulates_instructions(exposure: Exposure, emulators: Mapping[str, type[Emulator]] = EMULATORS) -> bool:
    """Whether the highest level sees a feature whose instructions neither the hardware nor KVM does."""
    emulated = exposure.seen(exposure.height) - exposure.offer.first - exposure.offer.runs
    return any(
        scope.reason is ExitReason.EMULATION_FAILURE
        for name, emulator in emulators.items()
        if name in emulated
        for scope in emulator.scopes
    )


def feature_claims(exposure: Exposure, cpu: Cpu, emulators: Mapping[str, type[Emulator]] = EMULATORS) -> list[Claim]:
    """A claim for each scope: emulation where the level on `cpu` sees the feature, else what absence gives.

    The account shows the feature's name, with `off` behind it for a level that does not see it.
    """
    claims = []
    for name, emulator in emulators.items():
        levels = exposure.levels(name)
        seen = cpu.level in levels
        handler = _emulate(emulator(levels), cpu) if seen else Refusal(emulator.absent)
        claims += [Claim(0, scope, handler, name if seen else f"{name} off") for scope in emulator.scopes]
    return claims


def _emulate(emulator: Emulator, cpu: Cpu) -> Callable[[Event], Result]:
    def handle(event: Event) -> Result:
        if event.reason is ExitReason.EMULATION_FAILURE:
            # where only KVM lacks the instruction the processor does it, and a loop of them in one go
            result = cpu.complete()
            if result.outcome is not Outcome.DECLINED:
                return result
        return emulator.handle(event, cpu)

    return handle


class Refusal:
    """The handler of a feature that the level does not see: a processor without it answers so."""

    def __init__(self, absent: Result) -> None:
        self._absent = absent

    def __call__(self, event: Event) -> Result:
        """What absence gives."""
        return self._absent

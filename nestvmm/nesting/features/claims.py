"""L0's claims on the events of its emulators: level 0, below all others, so a hypervisor may still take one itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nestvmm.engines import MsrRange
from nestvmm.nesting.designation import Claim
from nestvmm.nesting.features.cpu import Cpu
from nestvmm.nesting.features.emulator import Emulator
from nestvmm.nesting.features.exposure import Exposure
from nestvmm.nesting.features.registry import EMULATORS
from nestvmm.x86.event import Event, Result
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["emulated_msrs", "feature_claims"]


def emulated_msrs(emulators: Mapping[str, type[Emulator]] = EMULATORS) -> list[MsrRange]:
    """The MSRs of all emulators: they must exit also at a level that does not see the feature."""
    return [
        MsrRange(
            scope.first,
            scope.last,
            read=scope.reason is ExitReason.RDMSR,
            write=scope.reason is ExitReason.WRMSR,
        )
        for emulator in emulators.values()
        for scope in emulator.scopes
        if scope.reason in (ExitReason.RDMSR, ExitReason.WRMSR)
    ]


def feature_claims(exposure: Exposure, cpu: Cpu, emulators: Mapping[str, type[Emulator]] = EMULATORS) -> list[Claim]:
    """A claim for each scope: emulation where the level on `cpu` sees the feature, else what absence gives.

    The account shows the feature's name, with `off` behind it for a level that does not see it.
    """
    claims = []
    for name, emulator in emulators.items():
        levels = exposure.levels(name)
        seen = cpu.level in levels
        handler = _emulate(emulator(levels), cpu) if seen else _refuse(emulator.absent)
        claims += [Claim(0, scope, handler, name if seen else f"{name} off") for scope in emulator.scopes]
    return claims


def _emulate(emulator: Emulator, cpu: Cpu) -> Callable[[Event], Result]:
    return lambda event: emulator.handle(event, cpu)


def _refuse(absent: Result) -> Callable[[Event], Result]:
    return lambda _: absent

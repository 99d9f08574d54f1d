"""What `nestvmm features` tells: each feature, who has it, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nestvmm.engines import EngineConfig
from nestvmm.kvm import CpuidEntry, HostMemory
from nestvmm.nesting.features.catalog import CATALOG
from nestvmm.nesting.features.exposure import Exposure, expose
from nestvmm.nesting.features.feature import CpuidBit
from nestvmm.nesting.features.offer import Offer
from nestvmm.nesting.features.request import requests
from nestvmm.nesting.images import check_images, engine_for, make_levels
from nestvmm.nesting.spec import TowerSpec

__all__ = ["FeatureReport", "FeatureRow", "report_features"]

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One feature.

    hardware:  hardware and KVM offer it
    l0:        "hardware", "emulated" (only L0 has it), "runs" (it does, although KVM does not list it) or "no"
    levels:    whether level 1, 2 and so on see it
    why:       where it ends, if level n does not see it; else empty
    shown:     the bit that shows it
    forced:    level n's CPUID shows it at CPL 0 although level n is not to see it: this KVM does not let it be hidden
    """

    name: str
    meaning: str
    hardware: bool
    l0: str
    levels: tuple[bool, ...]
    why: str
    shown: str
    forced: bool


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """All rows for a tower of this height, on this engine."""

    engine: str
    height: int
    features: tuple[FeatureRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def report_features(spec: TowerSpec) -> FeatureReport:
    """Works out what the levels of a tower see; its guest is neither loaded nor run.

    Raises UsageError as the tower itself would, HostError and KvmError where /dev/kvm cannot be used.
    """
    wanted = requests(spec)
    hypervisors = make_levels(spec)
    check_images(spec, wanted)
    engine_class = engine_for(spec, frozenset(), "bare")
    with HostMemory(_PAGE) as memory:
        config = EngineConfig("bare", spec.code[0], memory, (), above=spec.code[1:])
        with engine_class(config) as engine:
            exposure = expose(engine, hypervisors, wanted)
            engine.set_cpuid(exposure.entries)
            shown = engine.shown_cpuid()
    rows = tuple(_row(name, exposure, shown) for name in CATALOG)
    return FeatureReport(engine_class.name, spec.height, rows)


def _row(name: str, exposure: Exposure, shown: Sequence[CpuidEntry]) -> FeatureRow:
    feature = CATALOG[name]
    offer = exposure.offer
    gone = exposure.gone(name, exposure.height)
    return FeatureRow(
        name=name,
        meaning=feature.meaning,
        hardware=name in offer.first,
        l0=_l0(name, offer),
        levels=tuple(name in exposure.seen(level) for level in range(1, exposure.height + 1)),
        why="" if gone is None else gone.text,
        shown=feature.shown.label,
        forced=gone is not None and isinstance(feature.shown, CpuidBit) and feature.shown.is_set(shown, {}),
    )


def _l0(name: str, offer: Offer) -> str:
    if name in offer.first:
        return "hardware"
    if name in offer.runs:
        return "runs"
    return "emulated" if name in offer.second else "no"

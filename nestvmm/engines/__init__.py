"""How level n runs, and which of its events reach the designation table.

engine        the seam: Engine, EngineConfig, RunStatus
direct        a plain KVM guest: what KVM hands to userspace traps; any /dev/kvm
guest_paging  the walk through level n's page tables
msr_filter    ranges of MSRs as KVM's filter
trial         what an instruction does at the KVM at hand
host          what this host offers the engines
"""

from __future__ import annotations

from collections.abc import Collection

from nestvmm.engines.direct import DirectEngine
from nestvmm.engines.engine import Engine, EngineConfig, MemorySlot, MsrRange, RunStatus
from nestvmm.engines.guest_paging import Access, GuestPaging, PageFaultError, UnbackedError
from nestvmm.engines.svm import SvmEngine
from nestvmm.engines.trial import Trial
from nestvmm.engines.vmx import VmxEngine
from nestvmm.errors import HostError
from nestvmm.x86.exit_reason import ExitReason

__all__ = [
    "ENGINES",
    "Access",
    "Engine",
    "EngineConfig",
    "GuestPaging",
    "MemorySlot",
    "MsrRange",
    "PageFaultError",
    "RunStatus",
    "SvmEngine",
    "Trial",
    "UnbackedError",
    "VmxEngine",
    "choose_engine",
]

ENGINES: dict[str, type[DirectEngine]] = {engine.name: engine for engine in (DirectEngine, SvmEngine, VmxEngine)}


def choose_engine(name: str, wanted: Collection[ExitReason] = (), machine: str = "pc") -> type[DirectEngine]:
    """The engine of that name; for `auto` the first that traps what is wanted on this host, or else direct.

    Raises HostError for an engine that this version does not have.
    """
    if name == "auto":
        if not all(DirectEngine.traps(reason, machine) for reason in wanted):
            for engine in (SvmEngine, VmxEngine):
                if engine.works_here():
                    return engine
        return DirectEngine
    if name not in ENGINES:
        raise HostError(f"engine {name}: not in this version of nestvmm, which has {', '.join(ENGINES)}")
    return ENGINES[name]

"""How level n runs, and which of its events reach the designation table.

engine       the seam: Engine, EngineConfig, RunStatus
direct       a plain KVM guest: what KVM hands to userspace traps; any /dev/kvm
msr_filter   ranges of MSRs as KVM's filter
host         what this host offers the engines
"""

from __future__ import annotations

from nestvmm.engines.direct import DirectEngine
from nestvmm.engines.engine import Engine, EngineConfig, MemorySlot, MsrRange, RunStatus
from nestvmm.engines.svm import SvmEngine
from nestvmm.errors import HostError

__all__ = ["ENGINES", "Engine", "EngineConfig", "MemorySlot", "MsrRange", "RunStatus", "choose_engine"]

ENGINES: dict[str, type[DirectEngine]] = {engine.name: engine for engine in (DirectEngine, SvmEngine)}


def choose_engine(name: str) -> type[DirectEngine]:
    """The engine of that name, or for `auto` the one to prefer; raises HostError for one that does not exist."""
    if name == "auto":
        return DirectEngine
    if name not in ENGINES:
        raise HostError(f"engine {name}: not in this version of nestvmm, which has {', '.join(ENGINES)}")
    return ENGINES[name]

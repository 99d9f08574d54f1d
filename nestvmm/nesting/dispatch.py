"""The loop that has hypervisors handle events, native/python/dispatch.c, for an engine's vCPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nestvmm._dispatch import Dispatch
from nestvmm._native import ffi, lib
from nestvmm.engines import Engine
from nestvmm.nesting.guest_view import VcpuState
from nestvmm.nesting.propagation import Effects
from nestvmm.x86.event import Event, Outcome, Result
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier

__all__ = ["dispatch_of"]


def dispatch_of(
    engine: Engine, state: VcpuState, effects: Effects, carry: Callable[[int, int, int], int | None]
) -> Dispatch:
    """The loop; it has no handlers yet.

    carry:  (space, address, level) gives a physical address as that level sees it, or None
    """
    return Dispatch(
        engine.vcpu,
        _address(engine.vcpu),
        _address(ffi.addressof(lib, "nv_vcpu_run")),
        _address(ffi.addressof(lib, "nv_vcpu_finish")),
        state=state,
        effects=effects,
        event=Event,
        result=Result,
        handled=Outcome.HANDLED,
        reasons=tuple(ExitReason),
        carries=tuple(REASONS[reason].qualifier is Qualifier.PHYSICAL for reason in ExitReason),
        carry=carry,
    )


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))

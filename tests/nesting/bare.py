"""The loop that calls handlers, on an engine without anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nestvmm._dispatch import Dispatch
from nestvmm._native import ffi
from nestvmm.kvm import Regs
from nestvmm.nesting.dispatch import dispatch_of
from nestvmm.nesting.guest_view import VcpuState
from nestvmm.nesting.propagation import Effects


class Bare:
    """What a loop needs of an engine."""

    mailbox = 0

    def __init__(self) -> None:
        self.vcpu = ffi.new("struct nv_vcpu *")

    def regs(self) -> Regs:
        return Regs()


def loop(engine: Any, carry: Callable[[int, int, int], int | None] = lambda space, address, level: None) -> Dispatch:
    return dispatch_of(engine, VcpuState(engine), Effects((2,)), carry)

"""Where a GSI (global system interrupt) goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.kvm.record import Value

__all__ = ["IrqchipRoute", "MsiRoute", "c_routing"]


class IrqchipRoute(Value):
    """To a pin of an in-kernel interrupt controller: PIC_MASTER, PIC_SLAVE or IOAPIC."""

    gsi: int
    irqchip: int
    pin: int


class MsiRoute(Value):
    """To a message; `address` has 64 bits, `data` 32."""

    gsi: int
    address: int
    data: int


def c_routing(routes: Iterable[IrqchipRoute | MsiRoute]) -> Any:
    """A `struct kvm_irq_routing *` of these routes."""
    routes = list(routes)
    c = ffi.new("struct kvm_irq_routing *", {"nr": len(routes), "entries": len(routes)})
    for at, route in enumerate(routes):
        entry = c.entries[at]
        entry.gsi = route.gsi
        if isinstance(route, IrqchipRoute):
            entry.type = lib.KVM_IRQ_ROUTING_IRQCHIP
            entry.u.irqchip.irqchip, entry.u.irqchip.pin = route.irqchip, route.pin
        else:
            entry.type = lib.KVM_IRQ_ROUTING_MSI
            entry.u.msi.address_lo, entry.u.msi.address_hi = route.address & 0xFFFFFFFF, route.address >> 32
            entry.u.msi.data = route.data
    return c

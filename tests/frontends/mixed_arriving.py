"""Cases of mixed_cases.py: what Python levels above an image have of the interrupts and NMIs that come from below."""

from __future__ import annotations

from typing import Any

import guest_code as guest
from mixed_interrupts import INTERRUPT, NMI, NMI_NOW, VECTOR, Injecting
from mixed_run import PORT, Case, Silent, hypercall, run

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result

EVENT, NMI_KIND = 0x4E58, 0x200  # the hypercall by which a minivisor injects
ALL = (1 << 64) - 1


class Keeping(Silent):
    """Keeps interrupts and NMIs from its guest."""

    def claims(self) -> Any:
        yield ExitReason.INTERRUPT, 0, ALL, None, self.arrive
        yield ExitReason.NMI, 0, ALL, None, self.arrive

    def arrive(self, event: Event) -> Result:
        self.seen.append([event.reason.value, event.level, event.qualifier])
        return HANDLED


class Passing(Keeping):
    """Sees them, and leaves them to its guest."""

    def arrive(self, event: Event) -> Result:
        super().arrive(event)
        return Result.declined()


class Replacing(Keeping):
    """Its guest gets the next vector."""

    def arrive(self, event: Event) -> Result:
        self.guest.interrupt(event.qualifier + 1)
        return super().arrive(event)


def injects(level: int, event: int) -> bytes:
    """The minivisor at `level` injects; and NOPs, at which the guest takes it."""
    return hypercall(EVENT, level, event) + guest.NOP * 2


COUNT = guest.handler(guest.add(0))
HANDLERS = {VECTOR: COUNT, VECTOR + 1: guest.handler(guest.add(1)), NMI: guest.handler(guest.add(2))}
OPEN = guest.STI + injects(1, VECTOR)
CLOSED = injects(1, VECTOR) + guest.load(guest.RESULTS) + guest.keep(3) + guest.STI + guest.NOP * 2
NMIS = injects(1, NMI_KIND | NMI)


def arriving(names: list[Any], code: bytes, *designate: str) -> dict[str, Any]:
    return run(names, code, 4, designate, handlers=HANDLERS)


ASKED = guest.STI + guest.out(PORT, INTERRUPT) + guest.NOP * 2 + guest.out(PORT, NMI_NOW) + guest.NOP * 2

CASES: dict[str, Case] = {
    "arriving": lambda: arriving(["image", Keeping], OPEN + NMIS),
    "arriving and passed": lambda: arriving(["image", Passing], OPEN + NMIS),
    "arriving early": lambda: arriving(["image", Passing], CLOSED),
    "arriving as another": lambda: arriving(["image", Replacing], OPEN),
    "arriving at none": lambda: arriving(["image", Silent], OPEN + NMIS),
    "arriving through an image": lambda: arriving([Injecting, "image", Keeping], ASKED),
    "arriving through an image and passed": lambda: arriving([Injecting, "image", Passing], ASKED),
    "arriving below an image": lambda: arriving(["image", Keeping, "image"], OPEN + NMIS),
    "arriving below an image and passed": lambda: arriving(["image", Passing, "image"], OPEN + NMIS),
    "arriving at a running image": lambda: arriving(["image", Keeping, "image"], OPEN + NMIS, "hypercall=L1"),
    "arriving at a running image and passed": lambda: arriving(
        ["image", Passing, "image"], OPEN + NMIS, "hypercall=L1"
    ),
    "arriving at two levels": lambda: arriving(["image", Passing, "image", Keeping], OPEN + NMIS, "hypercall=L1"),
    "arriving designated": lambda: arriving(
        ["image", Passing, "image", Keeping], OPEN + NMIS, "hypercall=L1", "interrupt=L2", "nmi=L2"
    ),
}

"""What the cases of hypervisors in machine code on SVM and VMX by software share."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from guest_code import results, run_in, spec_of

from nestvmm.hypervisors import HANDLED, Event, Guest, HandlerClaim, Hypervisor, Result
from nestvmm.nesting import LevelSpec, Tower
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["MEMORY", "RINGING", "Ringing", "run_on"]

MEMORY = 4 << 20


def run_on(
    engine: str,
    code: bytes,
    count: int,
    levels: list[LevelSpec] | None = None,
    designate: str = "",
    machine: str = "auto",
) -> dict[str, object]:
    """A hypervisor at level 1, or above these levels; how it ended, what it kept, and what L0 counted."""
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), code, levels or [], machine=machine, engine=engine, memory=MEMORY, timeout=60)
        spec = replace(spec, designate=(designate,) if designate else ())
        with Tower(spec) as tower:
            result = run_in(tower)
            nested = tower.engine.nested.c  # type: ignore[attr-defined]
            return {
                "status": result.status,
                "message": result.message,
                "exits": int(tower.engine.vcpu.exits),
                "kept": results(tower, count),
                "seen": [getattr(one, "seen", None) for one in tower.hypervisors],
                "entered": list(nested.entered)[:4],
                "reflected": list(nested.reflected)[:4],
                "served": list(nested.served)[:4],
                "met": int(nested.ahead.met),
                "keeps_gif": bool(nested.svm and nested.svm.keeps_gif),
                "renewed": sum(one.shadow.revision for one in nested.tables),
            }


class Ringing(Hypervisor):
    """Level 1: OUT to port 0x5010 queues an interrupt for its guest, 0x5011 an NMI."""

    def start(self, guest: Guest) -> None:
        super().start(guest)
        self.seen: list[int] = []

    def claims(self) -> list[HandlerClaim]:
        return [(ExitReason.IO, 0x5010, 0x5011, None, self.ring)]

    def ring(self, event: Event) -> Result:
        self.seen.append(event.level)
        if event.qualifier == 0x5010:
            self.guest.interrupt(0x55)
        else:
            self.guest.nmi()
        return HANDLED


RINGING = LevelSpec(f"{Path(__file__)}:Ringing")

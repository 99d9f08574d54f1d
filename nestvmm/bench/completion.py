"""What an instruction costs that L0 completes: one crossing for each, and in batches.

The guest loops over one instruction and a jump. Where KVM emulates it, or runs it natively, nothing is completed and
there is nothing to measure.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from nestvmm._native import lib
from nestvmm.bench.case import Choice, Step
from nestvmm.bench.row import Row
from nestvmm.engines import RunStatus
from nestvmm.engines.completion import BATCH
from nestvmm.engines.direct import DirectEngine
from nestvmm.nesting import Clock, GuestSpec, Tower, TowerSpec
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Completion"]

_ADDRESS = 0x100000
_MEMORY = 4 << 20
# enough of CR4 for SSE, then the instruction for ever
_START = bytes.fromhex("0f20e0 480d00060000 0f22e0")
_CODE = {"POPCNT": bytes.fromhex("f3480fb8c3"), "MULSD": bytes.fromhex("f20f59c8")}
_SAMPLES = 200
_WARM_UP = 20
# Seconds within which the guest stops unless its instruction runs natively, for ever.
_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Completion:
    """The case."""

    name: ClassVar[str] = "completion"
    about: ClassVar[str] = "an instruction that L0 completes because this host's KVM cannot emulate it"

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One for each instruction; a lab's processor runs them all itself."""
        if choice.directly_here:
            for name in _CODE:
                yield Step(name, partial(_rows, name, choice))


def _rows(name: str, choice: Choice) -> list[Row]:
    """Microseconds of one instruction completed alone, KVM_RUN included, and of one in a batch of BATCH."""
    rows = []
    for limit, what in ((1, "alone"), (BATCH, f"in a batch of {BATCH}")):
        row = Row("completion", f"{name} {what}", engine="direct", level=1, handler="C", handler_level=0, clock="L0")
        rows.append(_measure(replace(row, unit="us", us_per_unit=1.0), _CODE[name], limit, choice.runs or _SAMPLES))
    return rows


def _measure(row: Row, code: bytes, limit: int, samples: int) -> Row:
    image = _START + code + b"\xeb" + bytes([256 - len(code) - 2])
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        Path(file.name).write_bytes(image)
        spec = TowerSpec(GuestSpec(Path(file.name), memory=_MEMORY, address=_ADDRESS), engine="direct")
        with Tower(spec) as tower:
            engine = tower.engine
            if not isinstance(engine, DirectEngine):
                raise TypeError(f"the {engine.name} engine completes nothing")
            clock = Clock()
            taken = []
            for number in range(_WARM_UP + samples):
                started, before = lib.nv_ticks(), engine.completer.total
                if not (_complete(engine) if number else _needed(engine)):
                    return replace(row, note="this machine's KVM needs no help with it")
                count = engine.completer.total - before
                if number >= _WARM_UP:
                    taken.append((lib.nv_ticks() - started) * clock.ns_per_tick() / 1000 / max(count, 1))
                engine.completer.limit = limit
    return replace(row, runs=tuple(taken))


def _needed(engine: DirectEngine) -> bool:
    """Completes the first one. False: the guest runs by itself, and is stopped."""
    alarm = threading.Timer(_PATIENCE, engine.kick)
    alarm.start()
    try:
        return _complete(engine)
    finally:
        alarm.cancel()
        alarm.join()


def _complete(engine: DirectEngine) -> bool:
    """Runs to the next instruction that KVM cannot emulate, and completes from there; False: there is none."""
    if engine.run() != RunStatus.EVENT or engine.vcpu.event.reason != ExitReason.EMULATION_FAILURE:
        return False
    engine.complete()
    return True

"""What an instruction costs that L0 completes: one crossing for each, and in batches.

The guest loops over one instruction and a jump. Where KVM emulates it, or runs it natively, nothing is completed and
there is nothing to measure.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from nestvmm._native import lib
from nestvmm.bench.row import Row, compare
from nestvmm.engines import RunStatus
from nestvmm.engines.completion import BATCH
from nestvmm.engines.direct import DirectEngine
from nestvmm.nesting import Clock, GuestSpec, Tower, TowerSpec
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["measure_completion"]

_ADDRESS = 0x100000
_MEMORY = 4 << 20
# enough of CR4 for SSE, then the instruction for ever
_START = bytes.fromhex("0f20e0 480d00060000 0f22e0")
_CODE = {"POPCNT": bytes.fromhex("f3480fb8c3"), "MULSD": bytes.fromhex("f20f59c8")}
_SAMPLES = 200
_WARM_UP = 20


def measure_completion(samples: int = _SAMPLES) -> list[Row]:
    """Rows: microseconds of one instruction completed alone, KVM_RUN included, and of one in a batch of BATCH."""
    rows = []
    for name, code in _CODE.items():
        for limit, what in ((1, "alone"), (BATCH, f"in a batch of {BATCH}")):
            rows.append(_measure(f"{name} completed {what}", code, limit, samples))
    return rows


def _measure(what: str, code: bytes, limit: int, samples: int) -> Row:
    image = _START + code + b"\xeb" + bytes([256 - len(code) - 2])
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        Path(file.name).write_bytes(image)
        with Tower(TowerSpec(GuestSpec(Path(file.name), memory=_MEMORY, address=_ADDRESS))) as tower:
            engine = tower.engine
            if not isinstance(engine, DirectEngine):
                return Row(what, "us", note=f"the {engine.name} engine completes nothing")
            clock = Clock()
            taken = []
            for number in range(_WARM_UP + samples):
                started, before = lib.nv_ticks(), engine.completer.total
                if not _complete(engine):
                    return Row(what, "us", note="this host's KVM needs no help with it")
                count = engine.completer.total - before
                if number >= _WARM_UP:
                    taken.append((lib.nv_ticks() - started) * clock.ns_per_tick() / 1000 / max(count, 1))
                engine.completer.limit = limit
    return compare(what, "us", taken)


def _complete(engine: DirectEngine) -> bool:
    """Runs to the next instruction that KVM cannot emulate, and completes from there; False: there is none."""
    if engine.run() != RunStatus.EVENT or engine.vcpu.event.reason != ExitReason.EMULATION_FAILURE:
        return False
    engine.complete()
    return True

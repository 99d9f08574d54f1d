"""Runs towers of minivisors and Python hypervisors inside a lab: what the files of mixed cases share.

A tower is a list of levels, the lowest first: "image" is a minivisor, a class a Python hypervisor.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import getfile
from pathlib import Path
from types import MappingProxyType
from typing import Any

import guest_code as guest
from image_writers import Elf, Segment
from print_cases import print_cases

from nestvmm.errors import NestvmmError
from nestvmm.hypervisors import HANDLED, Direction, Event, ExitReason, Hypervisor, Result
from nestvmm.nesting import Account, Clock, GuestSpec, LevelSpec, Runner, Tower, TowerSpec
from nestvmm.nesting.image_guest import MachineMemory
from nestvmm.trace import Recorder

ENGINE = sys.argv[1]
GUESTS = Path(__file__).resolve().parents[2] / "guests"
MINIVISOR = GUESTS / "minivisor" / f"minivisor-{ENGINE}.elf"
MEMORY = 24 << 20
TIMEOUT = {"svm": 20, "vmx": 60}[ENGINE]
PORT, MARK, HYPERCALL, OWN_PORT = 0x5000, 0x4E560000, 0x4E56, 0x5600
CALL = {"svm": b"\x0f\x01\xd9", "vmx": b"\x0f\x01\xc1"}[ENGINE]
UD, GP = 6, 13

Case = Callable[[], dict[str, Any]]
Level = str | type[Hypervisor] | LevelSpec


class Silent(Hypervisor):
    """Claims nothing, and hears of effects."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.heard: list[list[int]] = []

    def propagated(self, event: Event, value: int) -> None:
        self.heard.append([event.level, event.qualifier, value])

    def note(self, event: Event) -> None:
        self.seen.append([event.level, event.qualifier, event.direction, event.size, event.value])


class Counting(Silent):
    """Its port reads as how often it was accessed."""

    def __init__(self, port: int = PORT) -> None:
        super().__init__()
        self.port = port

    def claims(self) -> Any:
        yield ExitReason.IO, self.port, self.port, None, self.access

    def access(self, event: Event) -> Result:
        self.note(event)
        return Result.read(len(self.seen)) if event.direction == Direction.READ else HANDLED


def levels_of(names: Sequence[Level]) -> tuple[LevelSpec, ...]:
    levels = []
    for number, name in enumerate(names, start=1):
        if isinstance(name, LevelSpec):
            levels.append(name)
        elif isinstance(name, str):
            levels.append(LevelSpec(image=MINIVISOR, append=f"level={number}"))
        else:
            levels.append(own(name))
    return tuple(levels)


def own(kind: type[Hypervisor], **options: int) -> LevelSpec:
    return LevelSpec(f"{getfile(kind)}:{kind.__name__}", options)


def hidden(kind: type[Hypervisor], *features: str) -> LevelSpec:
    return replace(own(kind), expose=features)


def elf(code: bytes, handlers: Mapping[int, bytes]) -> bytes:
    """#UD and #GP end the run with their vector."""
    faults = {UD: guest.done(UD), GP: guest.DROP_ERROR_CODE + guest.done(GP)}
    image = guest.with_handlers(code + guest.done(), faults | handlers)
    room = bytes(guest.RESULTS + 0x1000 - guest.CODE - len(image))
    return Elf(entry=guest.CODE, segments=[Segment(image + room, guest.CODE)]).write()


def run(
    names: Sequence[Level],
    code: bytes,
    count: int = 0,
    designate: Sequence[str] = (),
    trace: bool = False,
    handlers: Mapping[int, bytes] = MappingProxyType({}),
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        kernel = Path(folder) / "guest.elf"
        kernel.write_bytes(elf(code, handlers))
        spec = TowerSpec(
            GuestSpec(kernel, memory=MEMORY), levels_of(names), tuple(designate), engine=ENGINE, timeout=TIMEOUT
        )
        clock = Clock()
        with Tower(spec, stdout=out.fileno()) as tower:
            lines = Path(folder) / "trace"
            if trace:
                with Recorder(lines, tower, clock) as writer:
                    result = Runner(tower, drain=writer.drain).run(stdout=out.fileno())
            else:
                result = Runner(tower).run(stdout=out.fileno())
            account = Account.of(tower, clock, 1.0)
            kept = MachineMemory(tower.height, tower.engine).read(guest.RESULTS, 8 * count)
            last = [_last(tower, level) for level in range(1, tower.height)]
        out.seek(0)
        return {
            "status": result.status,
            "message": result.message,
            "out": out.read().decode(),
            "kept": list(struct.unpack(f"<{count}Q", kept)),
            "seen": [getattr(one, "seen", None) for one in tower.hypervisors],
            "heard": [getattr(one, "heard", None) for one in tower.hypervisors],
            "last": last,
            "rows": [[row.level, row.who, row.reason, row.count] for row in account.rows],
            "unclaimed": [[one.reason, one.qualifier, one.count] for one in account.unclaimed],
            "images": [[one.level, one.who, one.exits, one.entries, one.served] for one in account.images],
            "exits": account.exits,
            "trace": [json.loads(line) for line in lines.read_text().splitlines()] if trace else [],
        }


def _last(tower: Tower, level: int) -> list[int | None]:
    """What the hypervisor at `level` sees of PORT's effects."""
    one = tower.hypervisors[level - 1]
    return [one.guest.last(ExitReason.IO, PORT), one.guest.last(ExitReason.IO, PORT, write=True)]


def hypercall(number: int, level: int = 0, value: int = 0) -> bytes:
    return guest.rax(number) + guest.rbx(level) + guest.rcx(value) + CALL


def asks(level: int) -> bytes:
    """What a minivisor at `level` answers: its mark, a hypercall and its port, in results 0 to 2."""
    return (
        guest.cpuid(MARK + level)
        + guest.keep(0)
        + hypercall(HYPERCALL, level, 7)
        + guest.keep(1)
        + guest.out(OWN_PORT + level, 3)
        + guest.inp(OWN_PORT + level)
        + guest.keep(2)
    )


def main(cases: Mapping[str, Case]) -> None:
    print_cases({name: partial(_or_refused, case) for name, case in cases.items()}, sys.argv[2:])


def _or_refused(case: Case) -> dict[str, Any]:
    try:
        return case()
    except NestvmmError as error:
        return {"refused": str(error)}

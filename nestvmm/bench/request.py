"""What a benchmark is asked for, as plain data that can go to another machine; and doing it on this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from nestvmm.bench.case import Case, Choice, Step
from nestvmm.bench.catalog import CASES, LONG
from nestvmm.bench.document import HOST, Environment, here
from nestvmm.bench.session import Keeper, Watcher, measure, plan
from nestvmm.engines import SvmEngine, VmxEngine
from nestvmm.errors import HostError, UsageError

__all__ = ["ENGINES", "Request", "conduct", "prepare"]

ENGINES = ("direct", "svm", "vmx")


@dataclass(frozen=True, slots=True)
class Request:
    """What the user wants; empty: everything.

    cases:    names in the catalogue; empty: all but the long ones
    machine:  what the environment is to be called
    others:   see case.Choice
    """

    guests: str
    cases: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    heights: tuple[int, ...] = ()
    runs: int | None = None
    peer: bool = False
    machine: str = HOST
    icount: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `as_dict` gave."""
        known: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in data.items()}
        return cls(**known)


def prepare(request: Request) -> tuple[Environment, dict[str, tuple[Case, Step]]]:
    """This machine, and the steps that the request takes on it.

    Raises HostError for an engine that does not work here, UsageError where there is nothing to do.
    """
    environment = here(request.machine, request.icount)
    choice = Choice(
        engines=_engines(request.engines),
        guests=Path(request.guests),
        tsc_mhz=environment.tsc_mhz,
        heights=request.heights,
        runs=request.runs,
        peer=request.peer,
        icount=request.icount,
        emulated=request.machine != HOST,
    )
    wanted_cases = request.cases or [case.name for case in CASES if case.name not in LONG]
    steps = plan([case for case in CASES if case.name in wanted_cases], choice)
    if not steps:
        wanted = ", ".join(request.cases)
        engines = ", ".join(choice.engines)
        raise UsageError(
            f"{wanted}: nothing to measure with engine {engines} here; `nestvmm bench --list` has all cases"
        )
    return environment, steps


def conduct(request: Request, keeper: Keeper, watch: Watcher) -> tuple[Environment, list[str]]:
    """Does it on this machine: its environment, and the messages of steps that failed."""
    environment, steps = prepare(request)
    return environment, measure(steps, keeper, watch)


def _engines(wanted: tuple[str, ...]) -> tuple[str, ...]:
    found = ["direct"]
    for engine in (SvmEngine, VmxEngine):
        if engine.works_here():
            found.append(engine.name)
        elif engine.name in wanted:
            raise HostError(
                f"the {engine.name} engine needs {engine.needs}; `nestvmm bench --lab {engine.name}` has that"
            )
    return tuple(engine for engine in found if not wanted or engine in wanted)

"""Towers on the engine without KVM, with hypervisors that do what a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fake_engine import Exit, FakeEngine
from guest_code import spec_of

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Hypervisor
from nestvmm.nesting import LevelSpec, Runner, RunResult, Tower
from nestvmm.nesting.designation import Claim

Handler = Callable[["Scripted", Event], object]


class Scripted(Hypervisor):
    """Claims `reason` from `first` to `last`; `behave` answers, and is set by the test."""

    def __init__(self, reason: str = "io", first: int = 0x5000, last: int = 0x50FF) -> None:
        self._claim = (ExitReason.from_label(reason), first, last)
        self.behave: Handler = lambda _self, _event: HANDLED
        self.seen: list[Event] = []

    def claims(self) -> Iterable[Any]:
        yield (*self._claim, None, self.access)

    def access(self, event: Event) -> Any:
        self.seen.append(event)
        return self.behave(self, event)


class Listening(Scripted):
    def __init__(self, reason: str = "io", first: int = 0x6000, last: int = 0x60FF) -> None:
        super().__init__(reason, first, last)
        self.heard: list[tuple[int, int, int]] = []

    def propagated(self, event: Event, value: int) -> None:
        self.heard.append((event.level, event.qualifier, value))


class Failing(Hypervisor):
    """Raises in one of its methods."""

    console = True

    def __init__(self, where: str) -> None:
        self._where = where

    def _may_fail(self, where: str) -> None:
        if where == self._where:
            raise RuntimeError(f"no {where} today")

    def claims(self) -> Iterable[Any]:
        self._may_fail("claims")
        return ()

    def cpuid(self, entries: list[Any]) -> list[Any]:
        self._may_fail("cpuid")
        return entries

    def start(self, guest: Any) -> None:
        self._may_fail("start")

    def stop(self) -> None:
        self._may_fail("stop")

    def receive(self, data: bytes) -> int:
        self._may_fail("receive")
        return len(data)

    def propagated(self, event: Event, value: int) -> None:
        self._may_fail("propagated")


class Starting(Hypervisor):
    """Looks at its guest, and changes it, before its first instruction."""

    def start(self, guest: Any) -> None:
        super().start(guest)
        regs = guest.regs
        regs.rbx = 0x77
        guest.set_regs(regs)


def scripted(reason: str = "io", first: int = 0x5000, last: int = 0x50FF) -> LevelSpec:
    return LevelSpec(f"{__name__}:Scripted", {"reason": reason, "first": first, "last": last})


class Run:
    """A tower on the fake engine; `go` runs it through some exits."""

    def __init__(self, folder: Path, levels: Iterable[LevelSpec], **options: Any) -> None:
        self.tower = Tower(spec_of(folder, b"\xf4", list(levels), engine="fake", **options), stdout=-1)
        self.engine: FakeEngine = self.tower.engine  # type: ignore[assignment]
        self.engine.log.clear()

    def hypervisor(self, level: int) -> Any:
        return self.tower.hypervisors[level - 1]

    def claims(self) -> list[tuple[int, Claim]]:
        """The claims that have counters, with the slots of these."""
        return [(slot, claim) for slot, claim in enumerate(self.tower.flat.by_slot()) if claim is not None]

    def go(self, *exits: Exit) -> RunResult:
        self.engine.exits.extend(exits)
        return Runner(self.tower).run()

"""What one exit costs, by its kind, the engine, the guest's level, and what serves it: measured by guests/rtt.

The guest takes the time of each exit by RDTSC; L0, where a Python level hears the guest's bells, that of a whole run:
with the loop around the exits and both RDTSCs, which `overhead` measures alone. A timer's waits L0 times one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nestvmm.bench.answers import HOLE
from nestvmm.bench.case import RUNS, WARM_UP, Choice, Step
from nestvmm.bench.row import FLAT, Row
from nestvmm.bench.rtt import IMAGES, Figures, on_images, on_levels, one_by_one
from nestvmm.nesting import LevelSpec
from nestvmm.nesting.features.msr_block import SCRATCH
from nestvmm.nesting.memory import Region
from nestvmm.x86.layout import PORT_POST

__all__ = ["EXIT_CASES", "MARK_LEAF", "OWN_PORT", "ExitCase", "hypercall", "l0_hypercalls"]

SWITCHED = ("svm", "vmx")
# guests/lib/offer.h
OWN_PORT, MARK_LEAF = 0x5600, 0x4E560000
_HEIGHT = 2
_COUNT, _COUNT_SLOW = 50, 20
_PAGE = 0x1000
# Where rtt begins to touch fresh pages.
_FRESH = 0x1000000
_ADDRESSES_END = 1 << 32


@dataclass(frozen=True, slots=True)
class Way:
    """A way to serve an exit.

    handler:  C, Python or KVM at L0; Python at the level below the guest; image: machine code there
    level:    the handler's level; None: the one below the guest
    words:    what rtt is told; of {level}, {port} and {leaf} the image there takes hypercalls, INs and CPUIDs
    engines:  with which engines
    machine:  with a PC's interrupt controllers, or bare
    singly:   whether L0 times each exit by itself
    """

    handler: str
    level: int | None
    words: str
    engines: tuple[str, ...] = ("direct", *SWITCHED)
    machine: str = "bare"
    singly: bool = False


@dataclass(frozen=True, slots=True)
class ExitCase:
    """A kind of exit and the ways to serve it."""

    name: str
    about: str
    ways: tuple[Way, ...]

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One for each engine, height and way."""
        for engine in choice.engines:
            for height in choice.heights or (_HEIGHT,):
                yield from self._ways(choice, engine, height)

    def _ways(self, choice: Choice, engine: str, height: int) -> Iterator[Step]:
        for way in self.ways:
            if engine not in way.engines or (way.level is None and height < 2):
                continue
            if way.handler == "image" and engine not in IMAGES:
                continue
            if self.name == "hypercall" and way.handler == "KVM" and not l0_hypercalls():
                continue
            level = height - 1 if way.level is None else way.level
            name = f"{engine}, guest at L{height}, {way.handler or 'nothing'} at L{level}"
            yield Step(name, partial(self._measure, choice, engine, height, way, level))

    def _measure(self, choice: Choice, engine: str, height: int, way: Way, level: int) -> list[Row]:
        runs, count = choice.runs or RUNS, _COUNT_SLOW if choice.emulated else _COUNT
        port, leaf = OWN_PORT + level, MARK_LEAF + level
        words = way.words.format(hypercall=hypercall(engine), level=level, port=port, leaf=leaf)
        if way.handler == "image":
            figures = on_images(choice.guests, words, runs=runs, count=count, height=height, engine=engine)
        else:
            levels = _levels(self.name, height, way, (WARM_UP + runs) * count)
            measure = one_by_one if way.singly else on_levels
            figures = measure(
                choice.guests, words, runs=runs, count=count, levels=levels, engine=engine, machine=way.machine
            )
        return list(self._rows(figures, choice, engine, height, way.handler, level))

    def _rows(
        self, figures: Figures, choice: Choice, engine: str, height: int, handler: str, level: int
    ) -> Iterable[Row]:
        for clock, runs in (("guest", figures.guest), ("L0", figures.l0)):
            if runs:
                yield Row(
                    self.name,
                    f"{engine}, L{height}, {handler or 'nothing'} at L{level}, {clock}'s clock",
                    engine=engine,
                    level=height,
                    handler=handler,
                    handler_level=level,
                    mode=FLAT,
                    clock=clock,
                    us_per_unit=choice.us_per_cycle,
                    runs=runs,
                )


def hypercall(engine: str) -> str:
    """The instruction, as rtt calls it, that is a hypercall for this engine's guests."""
    return "vmcall" if engine == "vmx" else "vmmcall"


def l0_hypercalls() -> bool:
    """Whether this host's KVM serves hypercalls of a guest's privileged code; KVM-PVM lets them loop for ever."""
    return not Path("/sys/module/kvm_pvm").exists()


def _levels(kind: str, height: int, way: Way, pages: int) -> list[LevelSpec]:
    """The hypervisors below the guest: the first has the bells, the highest answers, where one is to."""
    answering = way.level is None
    levels = [LevelSpec("nestvmm.bench.answers:Bells")] if height > 1 else []
    levels += [LevelSpec("nestvmm.hypervisors:Hypervisor")] * (height - 2)
    if answering:
        levels[-1] = LevelSpec("nestvmm.bench.answers:Answering", {"kind": kind, "bells": height == 2})
    if kind == "page-fault" and levels:
        levels[-1] = LevelSpec(levels[-1].hypervisor, memory=_single_pages(pages))
    return levels


def _single_pages(count: int) -> tuple[Region, ...]:
    """A map of everything where some pages have changed places with their neighbours: none is part of a larger one."""
    count += count % 2
    end = _FRESH + count * _PAGE
    swapped = (Region(_FRESH + n * _PAGE, _PAGE, _FRESH + (n ^ 1) * _PAGE) for n in range(count))
    return (Region(0, _FRESH, 0), *swapped, Region(end, _ADDRESSES_END - end, end))


_SCRATCH = f"at={SCRATCH[0]:#x}"

EXIT_CASES = (
    ExitCase("overhead", "two RDTSCs with nothing between them", (Way("", 0, "none"),)),
    ExitCase(
        "hypercall",
        "VMMCALL or VMCALL",
        (
            Way("KVM", 0, "{hypercall}", engines=("direct",)),
            Way("Python", None, "{hypercall}", engines=SWITCHED),
            Way("image", None, "{hypercall} at={level}", engines=SWITCHED),
        ),
    ),
    ExitCase(
        "cpuid",
        "CPUID",
        (
            Way("KVM", 0, "cpuid", engines=("direct",)),
            Way("C", 0, "cpuid", engines=SWITCHED),
            Way("Python", None, "cpuid", engines=SWITCHED),
            Way("image", None, "cpuid at={leaf:#x}", engines=SWITCHED),
        ),
    ),
    ExitCase(
        "port",
        "a byte read from a port",
        (
            Way("C", 0, f"port-in at={PORT_POST[0]:#x}"),
            Way("Python", None, "port-in"),
            Way("image", None, "port-in at={port:#x}", engines=SWITCHED),
        ),
    ),
    ExitCase(
        "msr-read",
        "RDMSR",
        (Way("Python", 0, f"msr {_SCRATCH}"), Way("Python", None, "msr")),
    ),
    ExitCase(
        "msr-write",
        "WRMSR",
        (Way("Python", 0, f"msr-write {_SCRATCH}"), Way("Python", None, "msr-write")),
    ),
    ExitCase("mmio", "a read where no memory is", (Way("C", 0, f"mmio at={HOLE:#x}"), Way("Python", None, "mmio"))),
    ExitCase(
        "page-fault",
        "the first write to a page, which L0's shadow page tables get then (direct: KVM's own)",
        (Way("KVM", 0, "page", engines=("direct",)), Way("C", 0, "page", engines=SWITCHED)),
    ),
    ExitCase(
        "timer",
        "from programming the APIC's timer to its interrupt",
        (Way("KVM", 0, "timer", machine="pc", singly=True),),
    ),
)

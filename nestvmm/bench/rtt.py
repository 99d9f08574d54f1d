"""The guest that measures itself (guests/rtt), alone or on top of a tower, and what it says."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from nestvmm.bench.answers import BELL, Bells
from nestvmm.bench.case import WARM_UP
from nestvmm.errors import HostError
from nestvmm.loaders.stack import Stacked, stack
from nestvmm.nesting import GuestSpec, LevelSpec, Runner, Tower, TowerSpec

__all__ = ["IMAGES", "Figures", "guest_figures", "image", "on_images", "on_levels", "one_by_one"]

#: The hypervisor images that an engine's front-end runs.
IMAGES = {"svm": "minivisor-svm", "vmx": "minivisor-vmx"}

_MEMORY = 64 << 20
# Seconds that one tower may run.
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Cycles of one exit, run by run without the warm-up: the guest's medians, and L0's means where it had bells.

    Of `one_by_one`, both are medians.
    """

    guest: tuple[float, ...]
    l0: tuple[float, ...] = ()


def image(guests: Path, name: str, file: str | None = None) -> Path:
    """A guest's file. HostError: it is not built."""
    path = guests / name / f"{file or name}.elf"
    if not path.is_file():
        raise HostError(f"{path}: not there; `make guests` builds it in a checkout, whose guests/ --guests names")
    return path


def guest_figures(text: str, runs: int, kind: str = r"\S+") -> tuple[float, ...]:
    """The medians that rtt printed, of one kind where it printed several, without the warm-up."""
    found = re.findall(rf"^rtt {kind} count \d+ min \d+ median (\d+) cycles\r*$", text, re.MULTILINE)
    if len(found) != WARM_UP + runs:
        raise HostError(f"the guest rtt printed {text!r:.300}, not {WARM_UP + runs} runs; `make guests` builds it anew")
    return tuple(float(one) for one in found[WARM_UP:])


def on_levels(
    guests: Path,
    words: str,
    *,
    runs: int,
    count: int,
    levels: Sequence[LevelSpec] = (),
    engine: str = "direct",
    machine: str = "bare",
) -> Figures:
    """rtt on Python hypervisors, of which the first has the bells if it is a Bells.

    words:  the kind that rtt measures, and `at=` what
    count:  exits in a run
    """
    line = f"{words} count={count} runs={WARM_UP + runs} bell={BELL:#x}"
    guest = GuestSpec(image(guests, "rtt"), append=line, memory=_MEMORY)
    text, tower = _run(TowerSpec(guest, tuple(levels), engine=engine, machine=machine, timeout=_TIMEOUT))
    keeper = tower.hypervisors[0] if levels else None
    ticks = keeper.ticks[WARM_UP:] if isinstance(keeper, Bells) else []
    return Figures(guest_figures(text, runs), tuple(one / count for one in ticks))


def one_by_one(
    guests: Path, words: str, *, runs: int, count: int, levels: Sequence[LevelSpec], engine: str, machine: str
) -> Figures:
    """As on_levels, but with bells around each exit.

    For one that takes long beside these, and not always equally long: medians and means of such times are apart.
    """
    each = on_levels(guests, words, runs=runs * count, count=1, levels=levels, engine=engine, machine=machine)
    return Figures(_medians(each.guest, count), _medians(each.l0, count))


def _medians(figures: Sequence[float], count: int) -> tuple[float, ...]:
    return tuple(median(figures[first : first + count]) for first in range(0, len(figures), count))


def on_images(
    guests: Path, words: str, *, runs: int, count: int, height: int, engine: str, cascade: bool = False
) -> Figures:
    """rtt at level `height` on hypervisor images at all levels below; at level 1, it is alone.

    cascade:  each image nests the next one by itself
    """
    line = f"{words} count={count} runs={WARM_UP + runs}"
    rtt = image(guests, "rtt")
    if height == 1:
        return on_levels(guests, words, runs=runs, count=count, engine=engine)
    minivisor = image(guests, "minivisor", IMAGES[engine]).read_bytes()
    above = [Stacked(minivisor, f"level={level}") for level in range(2, height)]
    with tempfile.NamedTemporaryFile(prefix="nestvmm-", suffix=".elf") as file:
        Path(file.name).write_bytes(stack(minivisor, [*above, Stacked(rtt.read_bytes(), line)]))
        guest = GuestSpec(Path(file.name), append="level=1", memory=_MEMORY)
        designate = (f"{engine}-instruction=L1",) if cascade else ()
        text, _ = _run(TowerSpec(guest, engine=engine, designate=designate, timeout=_TIMEOUT))
    return Figures(guest_figures(text, runs))


def _run(spec: TowerSpec) -> tuple[str, Tower]:
    """What the guest printed, and the tower that ran."""
    with tempfile.TemporaryFile() as out:
        with Tower(spec, stdout=out.fileno()) as tower:
            result = Runner(tower).run(stdout=out.fileno())
        out.seek(0)
        text = out.read().decode(errors="replace")
    if result.status:
        raise HostError(f"the guest rtt ended with status {result.status}: {result.message or text!r:.300}")
    return text, tower

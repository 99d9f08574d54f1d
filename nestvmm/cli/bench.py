"""`nestvmm bench`: measures this host, or a lab."""

from __future__ import annotations

import datetime
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nestvmm.bench import (
    CASES,
    ENGINES,
    RUNS_MIN,
    Document,
    Environment,
    Journal,
    Request,
    conduct,
    conduct_in,
    versions,
)
from nestvmm.bench.document import HOST, here
from nestvmm.bench.session import Watcher
from nestvmm.cli.bench_table import print_document
from nestvmm.errors import HostError, UsageError
from nestvmm.lab import Lab, LocalLab, SvmLab, VmxLab, kvm_amd_nests, kvm_intel_nests

__all__ = ["bench"]

_GUESTS = Path(__file__).resolve().parents[2] / "guests"
_ABOUT = {case.name: case.about for case in CASES}
_HEIGHT_MAX = 16


def _heights(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """`1-8` or `2,4,8`."""
    found: set[int] = set()
    for part in value.split(",") if value else ():
        match = re.fullmatch(r"([0-9]{1,2})(?:-([0-9]{1,2}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= _HEIGHT_MAX:
            raise click.BadParameter(f"{value} is no list of heights from 1 to {_HEIGHT_MAX}, such as 1-8 or 2,4,8")
        found |= set(range(first, last + 1))
    return tuple(sorted(found))


@click.command()
@click.option("--list", "listing", is_flag=True, help="Says what can be measured.")
@click.option(
    "--case",
    "cases",
    type=click.Choice(list(_ABOUT)),
    multiple=True,
    metavar="NAME",
    help="Only this; may be repeated.",
)
@click.option(
    "--engine", "engines", type=click.Choice(ENGINES), multiple=True, help="Only this engine; may be repeated."
)
@click.option("--heights", metavar="LIST", callback=_heights, help="The towers' heights, as 1-8 or 2,4,8.")
@click.option("--runs", type=click.IntRange(RUNS_MIN, 10000), help="Runs of each figure, after warm-up.")
@click.option("--peer", type=click.Choice(["qemu"]), help="Measures the same guests under QEMU on this KVM, too.")
@click.option("--lab", type=click.Choice(["svm", "vmx"]), help="Measures in this lab instead of here.")
@click.option("--icount", is_flag=True, help="Lets the SVM lab's clock count instructions: figures repeat to 2 %.")
@click.option("--json", "json_file", metavar="FILE", help="Writes the result as JSON, too; `-`: instead, to stdout.")
@click.option(
    "--resume",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keeps in FILE what is done, and goes on there when called again with the same options.",
)
@click.option(
    "--guests",
    type=click.Path(path_type=Path),
    default=_GUESTS,
    help="Where the guests are that `make guests` built. [guests/ of the checkout]",
)
def bench(
    *,
    listing: bool,
    cases: tuple[str, ...],
    engines: tuple[str, ...],
    heights: tuple[int, ...],
    runs: int | None,
    peer: str | None,
    lab: str | None,
    icount: bool,
    json_file: str | None,
    resume: Path | None,
    guests: Path,
) -> None:
    """Measure what an exit costs, by its kind, engine, level and handler.

    Ratios are taken within this run: the things that are compared take turns, and a ratio is the median over the
    pairs. The exit status does not depend on the goals; it is 3 when something could not be measured.

    \b
    Examples:
      nestvmm bench --list
      nestvmm bench --peer qemu
      nestvmm bench --case cpuid --case port --runs 20
      nestvmm bench --lab svm --icount --case depth --heights 1-8
      nestvmm bench --lab svm --resume svm.journal --json svm.json
    """
    if listing:
        width = max(map(len, _ABOUT))
        print("\n".join(f"{name:{width}}  {about}" for name, about in _ABOUT.items()))
        return
    if icount and lab != "svm":
        raise UsageError("--icount is the SVM lab's: say --lab svm, too")
    _check_writable(json_file)
    machine = HOST if lab is None else f"{lab.upper()} lab"
    chosen = tuple(name for name in _ABOUT if name in cases)
    request = Request(str(guests.resolve()), chosen, engines, heights, runs, peer is not None, machine, icount)
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    begun = time.monotonic()
    host = here()
    with Journal(resume, {"choice": request.as_dict(), "machine": [host.cpu, host.kernel]}) as journal:
        with _progress() as watch:
            environment, found, failed = _measure(request, journal, watch, lab)
        rows = tuple(row for part in journal.done.values() for row in part)
    document = Document(tuple(sys.argv[1:]), started, time.monotonic() - begun, found, environment, rows)
    _write(document, json_file)
    if failed:
        raise HostError("not measured: " + "; ".join(failed))


def _measure(
    request: Request, journal: Journal, watch: Watcher, lab: str | None
) -> tuple[Environment, dict[str, str | None], list[str]]:
    if lab is None:
        environment, failed = conduct(request, journal, watch)
        return environment, versions(), failed
    with _lab(lab, request) as machine:
        return conduct_in(machine, request, journal, watch)


def _lab(name: str, request: Request) -> AbstractContextManager[Lab]:
    """The lab, or this machine where it nests itself."""
    if name == "svm":
        return LocalLab() if kvm_amd_nests() and not request.icount else SvmLab(icount=request.icount)
    return LocalLab() if kvm_intel_nests() else VmxLab(files=[Path(request.guests)])


@contextmanager
def _progress() -> Iterator[Watcher]:
    """A bar on standard error if that is a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        seen: list[str] = []

        def watch(total: int, name: str | None) -> None:
            bar.update(task, total=total, completed=len(seen), description=name or "done")
            if name is not None:
                seen.append(name)

        yield watch


def _check_writable(json_file: str | None) -> None:
    """So that nothing is measured in vain."""
    if json_file not in (None, "-"):
        with _named(json_file):
            Path(str(json_file)).open("ab").close()


@contextmanager
def _named(json_file: str | None) -> Iterator[None]:
    """Raises UsageError for a file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--json {json_file}: {error.strerror}") from None


def _write(document: Document, json_file: str | None) -> None:
    if json_file == "-":
        print(document.text(), end="")
        return
    if json_file is not None:
        with _named(json_file):
            Path(json_file).write_text(document.text(), encoding="utf-8")
    print_document(document, _ABOUT)

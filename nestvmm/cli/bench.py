"""`nestvmm bench`: measures this host."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nestvmm.bench import (
    KINDS,
    Depth,
    Row,
    measure_completion,
    measure_depth,
    measure_lab,
    measure_linux,
    measure_startup,
    measure_trips,
)
from nestvmm.errors import UsageError

__all__ = ["bench"]

_GUESTS = Path(__file__).resolve().parents[2] / "guests"
# Batches and starts: as many as take some two minutes, and some twenty seconds.
_BATCHES, _QUICK_BATCHES = 1500, 150
_STARTS, _QUICK_STARTS = 9, 1


@click.command()
@click.option("--quick", is_flag=True, help="Fewer samples: done within 20 s.")
@click.option(
    "--json", "json_file", metavar="FILE", help="Writes the rows as JSON, too; `-`: instead, to standard output."
)
@click.option("--no-qemu", is_flag=True, help="Does not start QEMU.")
@click.option(
    "--lab", is_flag=True, help="Measures in the SVM lab, too: exits by a clock that counts instructions, and Linux."
)
@click.option(
    "--depth",
    is_flag=True,
    help="Measures, instead, what an exit costs by depth in the SVM lab: flat, and as a cascade.",
)
@click.option(
    "--guests",
    type=click.Path(path_type=Path),
    default=_GUESTS,
    help="Where the guests are that `make guests` built. [guests/ of the checkout]",
)
def bench(*, quick: bool, json_file: str | None, no_qemu: bool, lab: bool, depth: bool, guests: Path) -> None:
    """Measure what an exit costs on this host, and how soon a guest starts.

    Ratios are taken within this run: the things that are compared take turns, and a ratio is the median over the
    pairs. The exit status does not depend on the goals.

    \b
    Examples:
      nestvmm bench
      nestvmm bench --quick --no-qemu
      nestvmm bench --lab --json bench.json
      nestvmm bench --depth
    """
    if depth:
        depths = measure_depth(guests)
        if not _write(json_file, [row.as_dict() for row in depths]):
            _print_depths(depths)
        return
    rows = measure_trips(_QUICK_BATCHES if quick else _BATCHES)
    rows += measure_completion()
    rows += measure_startup(
        guests / "multiboot" / "multiboot.elf", _QUICK_STARTS if quick else _STARTS, qemu=not no_qemu
    )
    if lab:
        rows += measure_lab(guests / "rtt" / "rtt.elf")
        rows += measure_linux()
    if not _write(json_file, [row.as_dict() for row in rows]):
        _print(rows)


def _write(json_file: str | None, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether standard output has the rows now."""
    text = json.dumps(rows, indent=2)
    if json_file == "-":
        print(text)
        return True
    if json_file is not None:
        try:
            Path(json_file).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--json {json_file}: {error.strerror}") from None
    return False


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 130
    return console


def _print_depths(depths: Sequence[Depth]) -> None:
    table = Table(
        title="Cycles of an exit of the guest at level n to the hypervisor at level n-1 (SVM lab, instructions)",
        title_justify="left",
    )
    table.add_column("level", justify="right")
    for kind in KINDS:
        for heading in (f"{kind}, flat", "cascade", "ratio"):
            table.add_column(heading, justify="right", no_wrap=True)
    for level in sorted({row.level for row in depths}):
        cells = []
        for kind in KINDS:
            found = [row for row in depths if (row.level, row.kind) == (level, kind)]
            cells += [f"{found[0].flat:,}", f"{found[0].cascade:,}", f"{found[0].ratio:.2f}"] if found else [""] * 3
        table.add_row(str(level), *cells)
    _console().print(table)


def _print(rows: list[Row]) -> None:
    table = Table(title="Round trips and start-up on this host", title_justify="left")
    for heading in ("what", "median", "against", "ratio", "95 %", "goal", "met", "n"):
        table.add_column(heading, justify="left" if heading in ("what", "against") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.what,
            row.note or _quantity(row),
            row.against,
            _number(row.ratio),
            "" if row.low is None or row.high is None else f"{row.low:.3f}-{row.high:.3f}",
            "" if row.goal is None else f"<= {row.goal:.2f}",
            {None: "", True: "yes", False: "no"}[row.met],
            str(row.samples or ""),
        )
    _console().print(table)


def _quantity(row: Row) -> str:
    if row.median is None:
        return ""
    return f"{row.median:.0f} {row.unit}" if row.unit == "ticks" else f"{row.median:.2f} {row.unit}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"

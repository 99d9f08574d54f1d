"""A run's rates as a table for people, shown anew at each interval."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from rich.live import Live
from rich.table import Table

from nestvmm.cli.console import PlainConsole
from nestvmm.stats.snapshot import Rates

__all__ = ["Show", "live_table", "rates_table"]

_WIDTH = 100


class Show(Protocol):
    """Shows rates."""

    def __call__(self, rates: Rates) -> None:
        """In place of those before, or below."""
        ...


def rates_table(rates: Rates) -> Table:
    """Exits a second by level, handler and reason; rows that were quiet keep their place."""
    now = rates.now
    about = f"process {now.pid}: L{now.height} by the {now.engine} engine, {now.seconds:.1f} s"
    table = Table(title=f"{about}, {_rate(rates.exits)} exits/s", title_justify="left")
    for heading in ("level", "handler", "reason"):
        table.add_column(heading, no_wrap=True)
    for heading in ("exits/s", "exits", "in C", "mean us"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row, (per_second, mean) in zip(now.rows, rates.rows, strict=True):
        in_c = "" if not row.in_c else f"{100 * row.in_c / row.count:.0f} %"
        mean_text = "" if mean is None else f"{mean:.2f}"
        cells = [f"L{row.level}", row.who, row.reason, _rate(per_second), f"{row.count:,}", in_c, mean_text]
        table.add_row(*cells, style=None if per_second else "dim")
    return table


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 or not per_second else f"{per_second:.1f}"


@contextmanager
def live_table(file: IO[str], *, alone: bool) -> Iterator[Show]:
    """Gives what shows rates in `file`.

    alone: nobody else writes to that terminal, so that the table can stay in its place
    """
    console = PlainConsole(file, width=_WIDTH)
    if not (alone and console.is_terminal):
        yield lambda rates: console.print(rates_table(rates))
        return
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield lambda rates: live.update(rates_table(rates), refresh=True)

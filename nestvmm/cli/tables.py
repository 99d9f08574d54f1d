"""The account of a run as a table for people."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from nestvmm.nesting import Account

__all__ = ["print_account"]


def print_account(account: Account) -> None:
    """Prints who handled what, on standard error."""
    console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 110)
    table = Table(title=f"Exits of L{account.height} by handling level ({account.engine} engine)", title_justify="left")
    for heading, justify in (
        ("level", "left"),
        ("handler", "left"),
        ("reason", "left"),
        ("qualifier", "left"),
        ("count", "right"),
        ("in C", "right"),
        ("mean us", "right"),
        ("p99 us", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in account.rows:
        table.add_row(
            f"L{row.level}",
            row.who,
            row.reason,
            row.qualifier,
            str(row.count),
            str(row.served_in_c),
            f"{row.mean_ns / 1000:.2f}",
            f"{row.p99_ns / 1000:.2f}",
        )
    console.print(table)
    console.print(f"{account.exits} exits in {account.seconds:.3f} s")
    if account.unclaimed:
        listed = ", ".join(
            f"{one.reason} {one.direction} {one.qualifier} x{one.count}" for one in account.unclaimed[:8]
        )
        more = len(account.unclaimed) - 8
        console.print(f"nobody claimed: {listed}" + (f" and {more} more" if more > 0 else ""))

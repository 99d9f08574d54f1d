"""The account of a run as a table for people."""

from __future__ import annotations

import sys
from typing import Final

from rich.table import Table

from nestvmm.cli.console import PlainConsole
from nestvmm.nesting import Account

__all__ = ["print_account"]


def print_account(account: Account) -> None:
    """Prints who handled what, on standard error."""
    console = PlainConsole(sys.stderr, width=110)
    whose = " and ".join(f"L{level}" for level in account.code)
    table = _table(
        f"Exits of {whose} by handling level ({account.engine} engine)",
        ("level", "handler", "reason", "qualifier"),
        ("count", "in C", "mean us", "p99 us"),
    )
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
    if account.images:
        entries, others = _ENTRIES[account.engine]
        images = _table("Levels of machine code", ("level", "image"), ("exits to it", entries, others))
        for one in account.images:
            images.add_row(f"L{one.level}", one.who, str(one.exits), str(one.entries), str(one.served))
        console.print(images)
    console.print(f"{account.exits} exits in {account.seconds:.3f} s")
    if account.unclaimed:
        listed = ", ".join(
            f"{one.reason} {one.direction} {one.qualifier} x{one.count}" for one in account.unclaimed[:8]
        )
        more = len(account.unclaimed) - 8
        console.print(f"nobody claimed: {listed}" + (f" and {more} more" if more > 0 else ""))


# What an image's counts are counts of, by the engine; under direct KVM nests, and counts nothing for us.
_ENTRIES: Final = {
    "svm": ("VMRUN", "other SVM instructions"),
    "vmx": ("VMLAUNCH and VMRESUME", "other VMX instructions"),
}


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """An empty table; numbers stand to the right."""
    table = Table(title=title, title_justify="left")
    for heading in words:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table

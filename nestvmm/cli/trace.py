"""`nestvmm trace`: what a run's trace comes to."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from nestvmm.cli.console import PlainConsole
from nestvmm.trace.reader import read_trace
from nestvmm.trace.summary import Summary, parse_filter, summarize

__all__ = ["trace"]

_INSTRUCTIONS = 10
_WIDTH = 130


@click.group()
def trace() -> None:
    """Read what `nestvmm run --trace FILE` wrote; ui.perfetto.dev opens FILE.json, too."""


@trace.command("summarize", short_help="Count a trace's events by handler and reason.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--filter",
    "filters",
    metavar="KEY=VALUE,...",
    multiple=True,
    help="Only these events: reason, level, who, direction, in_c, qualifier, instruction; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def summarize_(*, file: Path, filters: tuple[str, ...], as_json: bool) -> None:
    """Count a trace's events by handler and reason, with the parts of their time.

    \b
    Examples:
      nestvmm trace summarize trace.json
      nestvmm trace summarize trace.json --filter reason=io,level=L2
      nestvmm trace summarize trace.json --filter qualifier=0x3f8,instruction=out
    """
    summary = summarize(read_trace(file), parse_filter(filters))
    if as_json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        _print(summary)


def _print(summary: Summary) -> None:
    console = PlainConsole(width=_WIDTH, least=_WIDTH)
    table = Table(title="Events by handling level; times in us, means but for the last three", title_justify="left")
    for heading in ("level", "handler", "reason"):
        table.add_column(heading, no_wrap=True)
    for heading in ("count", "in C", "decode", "route", "handle", "complete", "total", "min", "median", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group in summary.groups:
        row = group.as_dict()
        names = ("decode", "route", "handle", "complete", "total", "minimum", "median", "p99")
        times = [_us(row[f"{name}_ns"]) for name in names]
        table.add_row(f"L{group.level}", group.who, group.reason, str(group.count), str(group.in_c), *times)
    console.print(table)
    console.print(f"{summary.events} of {summary.of} events")
    known = [(text, count) for text, count in summary.instructions.most_common(_INSTRUCTIONS + 1) if text]
    if known:
        listed = ", ".join(f"{text} x{count}" for text, count in known[:_INSTRUCTIONS])
        console.print(f"instructions: {listed}")


def _us(ns: float) -> str:
    return f"{ns / 1000:.2f}" if ns < 1_000_000 else f"{ns / 1000:.0f}"

"""`nestvmm top`: where the exits of a running tower go, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import click

from nestvmm.cli.live_table import live_table
from nestvmm.errors import UsageError
from nestvmm.stats.client import Watched, running
from nestvmm.stats.form import json_line
from nestvmm.stats.reporter import INTERVALS
from nestvmm.stats.snapshot import Rates

__all__ = ["top"]


@click.command()
@click.argument("pid", type=int, required=False)
@click.option("--interval", metavar="S", type=float, default=1.0, help="Seconds between two readings. [1]")
@click.option("--count", metavar="N", type=int, help="Ends after so many readings.")
@click.option("--json", "as_json", is_flag=True, help="Each reading as a line of JSON.")
def top(*, pid: int | None, interval: float, count: int | None, as_json: bool) -> int:
    """Show a running `nestvmm run`'s exits per second by level, handler and reason.

    PID is its process, of your own; without it, the one that is running. It ends with the run, or by Ctrl-C. Reading
    the counters does not stop the run.

    \b
    Examples:
      nestvmm top
      nestvmm top 4711 --interval 0.5
      nestvmm top 4711 --json --count 10
    """
    least, most = INTERVALS
    if not least <= interval <= most:
        raise UsageError(f"--interval {interval:g}: give {least:g} to {most:g} seconds")
    if count is not None and count < 1:
        raise UsageError(f"--count {count}: give 1 or more")
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        watched = stack.enter_context(Watched(_only() if pid is None else pid))
        if as_json:
            _watch(watched, interval, count, _print_json)
        else:
            _watch(watched, interval, count, stack.enter_context(live_table(sys.stdout, alone=True)))
    return 0


def _watch(watched: Watched, interval: float, count: int | None, show: Callable[[Rates], None]) -> None:
    before = watched.read()
    shown = 0
    while before is not None and (count is None or shown < count):
        time.sleep(interval)
        now = watched.read()
        if now is not None:
            show(Rates.between(before, now))
            shown += 1
        before = now
    if before is None:
        print("nestvmm: the run has ended", file=sys.stderr)


def _print_json(rates: Rates) -> None:
    sys.stdout.write(json_line(rates))
    sys.stdout.flush()


def _only() -> int:
    """The one run that there is."""
    found = running()
    if not found:
        raise UsageError("no `nestvmm run` of yours is running")
    if len(found) > 1:
        raise UsageError(f"several are running: name one of {', '.join(map(str, found))}")
    return found[0]

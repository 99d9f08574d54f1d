"""`nestvmm agree`: how far two benchmarks are apart."""

from __future__ import annotations

from pathlib import Path

import click

from nestvmm.bench import read_document
from nestvmm.bench.agree import Pair, pairs
from nestvmm.errors import UsageError

__all__ = ["APART", "agree"]

#: The exit status of runs that do not agree.
APART = 1


@click.command()
@click.argument("first", metavar="RUN.json", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN.json", type=click.Path(path_type=Path))
@click.option("--within", metavar="PERCENT", type=float, help="Exits with 1 when any is farther apart.")
@click.option("--all", "all_", is_flag=True, help="Lists every figure, not only the one that is farthest apart.")
def agree(*, first: Path, second: Path, within: float | None, all_: bool) -> int:
    """Say how far the medians of two benchmarks are apart: files that `nestvmm bench --json` wrote.

    \b
    Example:
      nestvmm bench --lab svm --icount --json one.json
      nestvmm bench --lab svm --icount --json two.json
      nestvmm agree one.json two.json --within 2
    """
    # nothing is farther apart than nan
    if within is not None and not within >= 0:
        raise UsageError(f"--within {within:g}: give a number from 0 up")
    found = pairs(read_document(first).rows, read_document(second).rows)
    if not found:
        raise UsageError(f"{first}: nothing was measured")
    beyond = [pair for pair in found if within is not None and pair.apart > within]
    for pair in found if all_ else beyond or found[:1]:
        print(_line(pair))
    print(f"{len(found)} medians are at most {found[0].apart:.2f} % apart")
    return APART if beyond else 0


def _line(pair: Pair) -> str:
    return f"{pair.apart:6.2f} %  {pair.name}: {pair.first.median:,.6g} and {pair.second.median:,.6g} {pair.first.unit}"

"""`nestvmm report`: benchmarks and runs as one page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from nestvmm.errors import UsageError
from nestvmm.report import figures_of, page, read_inputs

__all__ = ["report"]


@click.command()
@click.argument("files", metavar="RUN.json...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE", default="report.html", help="The page; `-`: to stdout. [report.html]")
@click.option("--plots", metavar="DIR", type=click.Path(path_type=Path), help="Its figures as PNG and SVG, too.")
@click.option("--title", default="What nested exits cost", help="The page's heading.")
def report(*, files: tuple[Path, ...], output: str, plots: Path | None, title: str) -> None:
    """Make one page of benchmarks and accounts of runs; it needs no network.

    RUN.json is what `nestvmm bench --json` or `nestvmm run --json` wrote.

    \b
    Examples:
      nestvmm report bench.json -o report.html
      nestvmm report svm-lab.json vmx-lab.json run.json --plots figures
    """
    inputs = read_inputs(files)
    if plots is not None:
        from nestvmm.report.plots import plot  # noqa: PLC0415 - needs an extra

        plot(figures_of(inputs), plots)
    # what the page says of itself; a name that is no text has marks in it
    data = page(inputs, title).encode("utf-8", "replace")
    if output == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        Path(output).write_bytes(data)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}") from None

"""The figures as PNG and SVG files, by matplotlib, for papers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from nestvmm.errors import HostError, UsageError
from nestvmm.report.figure import Bars, Dots, Figure, Lines

__all__ = ["plot"]

_MARKERS: Final = "osD^vP"
_COLOURS: Final = ("#0b5fad", "#b04a00", "#1a7331", "#7b3fa0", "#b3202c", "#556170")


def plot(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Writes NAME.png and NAME.svg of each; gives the files.

    Raises HostError without matplotlib, UsageError for a folder that cannot be written.
    """
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - an extra, and slow to load
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - see above
        from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 - see above
    except ImportError:
        raise HostError("--plots needs matplotlib: pip install matplotlib") from None
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a name with dollars is no formula
        with rc_context({"text.parse_math": False}):
            for figure in figures:
                canvas = Canvas(figsize=(8.6, _height(figure)), layout="constrained")
                FigureCanvasAgg(canvas)
                _draw(canvas.add_subplot(), figure)
                for suffix in "png", "svg":
                    path = folder / f"{figure.name}.{suffix}"
                    canvas.savefig(path, dpi=150, metadata={"Title": figure.title})
                    written.append(path)
    except OSError as error:
        raise UsageError(f"--plots {folder}: {error.strerror}") from None
    return written


def _height(figure: Figure) -> float:
    """Inches."""
    rows = 0 if isinstance(figure.chart, Lines) else len(figure.chart.names)
    return max(3.6, 1.2 + 0.24 * rows)


def _draw(axes: Any, figure: Figure) -> None:
    axes.set_title(figure.title, loc="left")
    axes.grid(visible=True, color="#c3ccd5", linewidth=0.6)
    axes.set_axisbelow(True)
    chart = figure.chart
    if isinstance(chart, Lines):
        _lines(axes, chart)
    elif isinstance(chart, Dots):
        _dots(axes, chart)
    else:
        _bars(axes, chart)
    axes.legend(frameon=False, fontsize=8)


def _lines(axes: Any, chart: Lines) -> None:
    for number, line in enumerate(chart.series):
        xs, ys = [point.x for point in line.points], [point.y for point in line.points]
        style = {"color": _COLOURS[number % 6], "marker": _MARKERS[number % 6], "ls": "--" if line.dashed else "-"}
        axes.plot(xs, ys, label=line.name, **style)
    levels = sorted({int(point.x) for line in chart.series for point in line.points})
    axes.set(yscale="log", xlabel=chart.x_label, ylabel=chart.y_label)
    axes.set_xticks(levels, [f"L{level}" for level in levels])


def _dots(axes: Any, chart: Dots) -> None:
    for group, number in chart.numbered().items():
        mine = [index for index, one in enumerate(chart.groups) if one == group]
        points = [chart.points[index] for index in mine]
        below = [point.y - (point.low or point.y) for point in points]
        above = [(point.high or point.y) - point.y for point in points]
        style = {"color": _COLOURS[number % 6], "marker": _MARKERS[number % 6], "ls": "none", "capsize": 2}
        axes.errorbar([point.y for point in points], mine, xerr=(below, above), label=group, **style)
    axes.set(xscale="log", xlabel=chart.x_label)
    axes.set_yticks(range(len(chart.names)), chart.names, fontsize=7)
    axes.invert_yaxis()


def _bars(axes: Any, chart: Bars) -> None:
    left = [0.0] * len(chart.names)
    for number, (part, values) in enumerate(chart.parts):
        axes.barh(range(len(chart.names)), values, left=left, color=_COLOURS[number % 6], label=part)
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set(xlabel=chart.x_label)
    axes.set_yticks(range(len(chart.names)), chart.names)
    axes.invert_yaxis()

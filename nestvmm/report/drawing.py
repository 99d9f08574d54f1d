"""A figure as SVG, whose colours are the page's: they differ in light and in dark, and shapes tell the same as they."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from nestvmm.report.figure import Bars, Dots, Figure, Lines, Point
from nestvmm.report.scale import Linear, Log

__all__ = ["GROUPS", "draw", "mark_text"]

#: Colours and shapes; further groups share them.
GROUPS = 6

_WIDTH = 860
_ROW = 24
_TOP, _BOTTOM = 16, 46
# What a letter takes, on average and at most in the page's fonts.
_LETTER = 7.2
_LABEL_MAX = 330


def draw(figure: Figure) -> str:
    """An `svg` element, named by the figure's title and described by its text."""
    chart = figure.chart
    if isinstance(chart, Lines):
        body, height = _lines(chart)
    elif isinstance(chart, Dots):
        body, height = _dots(chart)
    else:
        body, height = _bars(chart)
    names = f"{figure.name}-title {figure.name}-text"
    return f'<svg role="img" aria-labelledby="{names}" viewBox="0 0 {_WIDTH} {height}" class="chart">\n{body}\n</svg>'


def mark_text(value: float) -> str:
    """A value on an axis."""
    for limit, letter in (1e9, "G"), (1e6, "M"), (1e3, "k"):
        if value >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _shape(x: float, y: float, group: int, title: str) -> str:
    """A marker, whose title a pointer shows."""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6-6z"/>',
        f'<path d="M{x:.1f} {y - 5.5:.1f}l6 10h-12z"/>',
        f'<path d="M{x:.1f} {y + 5.5:.1f}l6-10h-12z"/>',
        f'<path d="M{x - 2:.1f} {y - 5:.1f}h4v3h3v4h-3v3h-4v-3h-3v-4h3z"/>',
    )
    return f'<g class="m g{group % GROUPS}">{shapes[group % GROUPS]}<title>{escape(title)}</title></g>'


def _legend(names: dict[str, int], x: float, y: float) -> str:
    parts = []
    for number, (name, group) in enumerate(names.items()):
        parts.append(_shape(x, y + _ROW * number, group, name))
        parts.append(_text(x + 12, y + _ROW * number + 4.5, name))
    return "\n".join(parts)


def _in_order(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _lines(chart: Lines) -> tuple[str, int]:
    names = [line.name for line in chart.series]
    room = min(max(len(name) for name in names) * _LETTER + 30, _LABEL_MAX)
    left, right = 62.0, _WIDTH - room - 20
    height = max(330, _TOP + _BOTTOM + _ROW * len(names))
    points = [point for line in chart.series for point in line.points]
    ys = Log.over((value for point in points for value in (point.y, point.low or point.y)), height - _BOTTOM, _TOP)
    levels = sorted({int(point.x) for point in points})
    step = (right - left - 30) / max(levels[-1] - levels[0], 1)

    def x_of(point: Point) -> float:
        return left + 15 + (point.x - levels[0]) * step

    parts = []
    for mark in ys.marks():
        parts.append(_line(left, ys.at(mark), right, ys.at(mark), "grid"))
        parts.append(_text(left - 8, ys.at(mark) + 4.5, mark_text(mark), "end"))
    for level in levels:
        parts.append(_text(x_of(Point(level, 0)), height - _BOTTOM + 18, f"L{level}", "middle"))
    parts.append(_text((left + right) / 2, height - 6, chart.x_label, "middle", ' class="axis"'))
    middle = (height - _BOTTOM + _TOP) / 2
    turned = f' class="axis" transform="rotate(-90 14 {middle:.1f})"'
    parts.append(_text(14, middle, chart.y_label, "middle", turned))
    for number, line in enumerate(chart.series):
        path = " ".join(f"{x_of(point):.1f},{ys.at(point.y):.1f}" for point in line.points)
        dashed = " dashed" if line.dashed else ""
        parts.append(f'<polyline points="{path}" class="l g{number % GROUPS}{dashed}"/>')
        for point in line.points:
            title = f"{line.name}, L{point.x:g}: {point.y:,.6g}"
            parts.append(_shape(x_of(point), ys.at(point.y), number, title))
    parts.append(_legend(_in_order(names), right + 20, _TOP + 10))
    return "\n".join(parts), height


def _left(names: tuple[str, ...]) -> float:
    return min(max(len(name) for name in names) * _LETTER + 12, _LABEL_MAX)


def _shortened(name: str) -> str:
    most = int(_LABEL_MAX / _LETTER) - 1
    return name if len(name) <= most else name[: most - 1] + "…"


def _rows(names: tuple[str, ...], left: float, right: float) -> list[str]:
    """The names, and a line at each."""
    parts = []
    for number, name in enumerate(names):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(_line(left, y, right, y, "grid"))
        parts.append(_text(left - 8, y + 4.5, _shortened(name), "end"))
    return parts


def _x_axis(scale: Log | Linear, label: str, bottom: float) -> list[str]:
    parts = []
    for mark in scale.marks():
        parts.append(_line(scale.at(mark), _TOP, scale.at(mark), bottom, "grid"))
        parts.append(_text(scale.at(mark), bottom + 16, mark_text(mark), "middle"))
    parts.append(_text((scale.start + scale.end) / 2, bottom + 34, label, "middle", ' class="axis"'))
    return parts


def _dots(chart: Dots) -> tuple[str, int]:
    groups = chart.numbered()
    left, right = _left(chart.names), _WIDTH - 130.0
    bottom = _TOP + _ROW * max(len(chart.names), len(groups))
    values = [value for point in chart.points for value in (point.y, point.low or point.y, point.high or point.y)]
    scale = Log.over(values, left + 6, right)
    parts = _rows(chart.names, left, right) + _x_axis(scale, chart.x_label, bottom)
    for number, (name, point, group) in enumerate(zip(chart.names, chart.points, chart.groups, strict=True)):
        y = _TOP + _ROW * (number + 0.5)
        which = groups[group]
        if point.low and point.high:
            parts.append(_line(scale.at(point.low), y, scale.at(point.high), y, f"l g{which % GROUPS}"))
        parts.append(_shape(scale.at(point.y), y, which, f"{name}, {group}: {point.y:,.6g}"))
    parts.append(_legend(groups, right + 22, _TOP + 12))
    return "\n".join(parts), int(bottom + _BOTTOM)


def _bars(chart: Bars) -> tuple[str, int]:
    left, right = _left(chart.names), _WIDTH - 150.0
    bottom = _TOP + _ROW * max(len(chart.names), len(chart.parts))
    totals = [sum(values[number] for _, values in chart.parts) for number in range(len(chart.names))]
    scale = Linear(max(totals) or 1.0, left, right)
    parts = _rows(chart.names, left, right) + _x_axis(scale, chart.x_label, bottom)
    for number, name in enumerate(chart.names):
        y, x = _TOP + _ROW * number + 5, left
        for which, (part, values) in enumerate(chart.parts):
            width = scale.at(values[number]) - left
            title = escape(f"{name}, {part}: {values[number]:.3g}")
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_ROW - 10}" class="b g{which % GROUPS}">'
                f"<title>{title}</title></rect>"
            )
            if width > len(part) * _LETTER + 8:
                parts.append(_text(x + width / 2, y + 11.5, part, "middle", ' class="on"'))
            x += width
    parts.append(_legend(_in_order(part for part, _ in chart.parts), right + 22, _TOP + 12))
    return "\n".join(parts), int(bottom + _BOTTOM)

"""A figure: what is drawn, and the words and the table that say the same to who does not see it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Bars", "Dots", "Figure", "Lines", "Point", "Series", "Table"]


@dataclass(frozen=True, slots=True)
class Table:
    """Its rows' first cell is their head. numbers: the columns that are set right, from 0."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Point:
    """low, high: an interval, where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together; dashed: of another machine."""

    name: str
    points: tuple[Point, ...]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines over whole numbers on a logarithmic axis."""

    x_label: str
    y_label: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Dots:
    """A point for each name, on a logarithmic axis.

    groups:  the colour and shape of each point
    order:   groups that have theirs in every figure, whether they are in this one or not
    """

    x_label: str
    names: tuple[str, ...]
    points: tuple[Point, ...]
    groups: tuple[str, ...]
    order: tuple[str, ...] = ()

    def numbered(self) -> dict[str, int]:
        """The groups that there are, with the numbers of their colours."""
        every = dict.fromkeys((*self.order, *self.groups))
        return {group: number for number, group in enumerate(every) if group in self.groups}


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar for each name, of parts that add up; parts: a value for each name."""

    x_label: str
    names: tuple[str, ...]
    parts: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """name: letters, digits and dashes; text: what can be seen, in a sentence or two."""

    name: str
    title: str
    text: str
    chart: Lines | Dots | Bars
    table: Table = field(repr=False)

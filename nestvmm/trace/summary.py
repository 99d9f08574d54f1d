"""What a trace comes to: counts and times by reason and handler, and which instructions the exits were for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from nestvmm.errors import UsageError
from nestvmm.trace.reader import Traced
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason

__all__ = ["Group", "Summary", "parse_filter", "summarize"]

#: What a filter can ask for.
KEYS: Final = ("reason", "level", "who", "direction", "in_c", "qualifier", "instruction")
# The most different instructions and latencies that a group keeps.
_INSTRUCTIONS: Final = 10_000
# Latencies are kept in buckets of 1/32, so that any number of events takes the same memory.
_BUCKETS: Final = 32

# What these can be.
_WORDS: Final = {
    "reason": {reason.label for reason in ExitReason},
    "direction": {direction.name.lower() for direction in Direction},
}

Filter = Callable[[Traced], bool]


@dataclass(slots=True)
class Group:
    """The events of one reason that one handler handled; times in nanoseconds."""

    reason: str
    level: int
    who: str
    count: int = 0
    in_c: int = 0
    total: int = 0
    decode: int = 0
    route: int = 0
    handle: int = 0
    complete: int = 0
    minimum: int = 1 << 63
    _latencies: Counter[int] = field(default_factory=Counter)

    def add(self, event: Traced) -> None:
        """Counts it."""
        self.count += 1
        self.in_c += event.in_c
        self.total += event.total
        self.decode += event.decode
        self.route += event.route
        self.handle += event.handle
        self.complete += event.complete
        self.minimum = min(self.minimum, event.total)
        self._latencies[_bucket(event.total)] += 1

    def quantile(self, share: float) -> float:
        """The latency that this share of the events did not exceed, to within 1/32."""
        seen = 0
        for bucket in sorted(self._latencies):
            seen += self._latencies[bucket]
            if seen >= share * self.count:
                return _middle(bucket)
        return 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times are means."""
        count = max(self.count, 1)
        times = {
            f"{name}_ns": getattr(self, name) / count for name in ("total", "decode", "route", "handle", "complete")
        }
        quantiles = {"minimum_ns": self.minimum, "median_ns": self.quantile(0.5), "p99_ns": self.quantile(0.99)}
        names = {"reason": self.reason, "level": self.level, "who": self.who}
        return {**names, "count": self.count, "in_c": self.in_c, **times, **quantiles}


@dataclass(slots=True)
class Summary:
    """All of it.

    events:        how many passed the filter; of: how many the trace has
    instructions:  how often each instruction stopped level n; `others` are those beyond the first 10,000 different ones
    """

    events: int
    of: int
    groups: list[Group]
    instructions: Counter[str]
    others: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "events": self.events,
            "of": self.of,
            "groups": [group.as_dict() for group in self.groups],
            "instructions": dict(self.instructions.most_common()),
        }


def summarize(events: Iterable[Traced], wanted: Filter) -> Summary:
    """The events that pass the filter, by handler and reason: the highest level first, then the most frequent."""
    groups: dict[tuple[str, int, str], Group] = {}
    instructions: Counter[str] = Counter()
    seen = taken = others = 0
    for event in events:
        seen += 1
        if not wanted(event):
            continue
        taken += 1
        key = event.reason, event.level, event.who
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group(*key)
        group.add(event)
        if event.instruction in instructions or len(instructions) < _INSTRUCTIONS:
            instructions[event.instruction] += 1
        else:
            others += 1
    ordered = sorted(groups.values(), key=lambda group: (-group.level, -group.count, group.reason, group.who))
    return Summary(taken, seen, ordered, instructions, others)


def parse_filter(texts: Iterable[str]) -> Filter:
    """Every term of `KEY=VALUE,KEY=VALUE ...` must hold; a key that is given again may have either value.

    reason, who, direction and instruction as the trace has them, who and instruction without regard to case;
    level as 2 or L2; in_c as yes or no; qualifier as a number or FIRST-LAST. Raises UsageError.
    """
    terms: dict[str, list[Filter]] = {}
    for text in texts:
        for term in text.split(","):
            key, equals, value = term.partition("=")
            if key not in KEYS or not equals:
                raise UsageError(f"--filter {text}: {term!r} is not KEY=VALUE with a key of {', '.join(KEYS)}")
            try:
                terms.setdefault(key, []).append(_term(key, value))
            except ValueError:
                raise UsageError(f"--filter {text}: {value!r} is no {key}") from None
    return lambda event: all(any(holds(event) for holds in either) for either in terms.values())


def _term(key: str, value: str) -> Filter:
    if key == "level":
        level = int(value.removeprefix("L"))
        return lambda event: event.level == level
    if key == "in_c":
        in_c = {"yes": True, "no": False}.get(value)
        if in_c is None:
            raise ValueError(value)
        return lambda event: event.in_c == in_c
    if key == "qualifier":
        first, last = _range(value)
        return lambda event: first <= event.qualifier <= last
    if key in ("who", "instruction"):
        part = value.casefold()
        return lambda event: part in getattr(event, key).casefold()
    if value not in _WORDS[key]:
        raise ValueError(value)
    return lambda event: getattr(event, key) == value


def _range(value: str) -> tuple[int, int]:
    found = re.fullmatch(r"(0x[0-9a-fA-F]+|\d+)(?:-(0x[0-9a-fA-F]+|\d+))?", value)
    if found is None:
        raise ValueError(value)
    first = int(found[1], 0)
    return first, first if found[2] is None else int(found[2], 0)


def _bucket(value: int) -> int:
    """Its power of two and the five bits behind the first one."""
    if value < _BUCKETS:
        return value
    shift = value.bit_length() - 6
    return shift * _BUCKETS + (value >> shift)


def _middle(bucket: int) -> float:
    if bucket < 2 * _BUCKETS:
        return float(bucket)
    shift = bucket // _BUCKETS - 1
    return ((bucket - shift * _BUCKETS) + 0.5) * (1 << shift)

"""Steps, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nestvmm.bench.case import Choice, Step
from nestvmm.bench.journal import Journal
from nestvmm.bench.row import Row
from nestvmm.bench.session import measure, plan
from nestvmm.errors import HostError

CHOICE = Choice(("direct",), Path(), 1000.0)


@dataclass
class Fake:
    name: str
    done: list[str]
    about: str = ""

    def steps(self, choice: Choice) -> Iterator[Step]:
        assert choice is CHOICE
        yield Step("good", lambda: self.good("good"))
        yield Step("bad", self.bad)
        yield Step("last", lambda: self.good("last"))

    def good(self, name: str) -> list[Row]:
        self.done.append(f"{self.name}/{name}")
        return [Row(self.name, name, runs=(1.0,))]

    def bad(self) -> list[Row]:
        raise HostError("no such machine")


def test_all_steps_are_done_and_failures_told() -> None:
    done: list[str] = []
    steps = plan([Fake("a", done), Fake("b", done)], CHOICE)
    seen: list[tuple[int, str | None]] = []
    with Journal(None, {}) as journal:
        failed = measure(steps, journal, lambda total, name: seen.append((total, name)))
        assert list(journal.done) == list(steps)
        assert journal.done["a/good"] == [Row("a", "good", runs=(1.0,))]
        assert journal.done["b/bad"] == [Row("b", "bad", note="failed: no such machine")]
    assert failed == ["a/bad: no such machine", "b/bad: no such machine"]
    assert done == ["a/good", "a/last", "b/good", "b/last"]
    assert seen == [(6, name) for name in [*steps, None]]


def test_what_is_done_is_not_done_again() -> None:
    done: list[str] = []
    steps = plan([Fake("a", done)], CHOICE)
    with Journal(None, {}) as journal:
        journal.add("a/good", [])
        journal.add("a/bad", [])
        assert measure(steps, journal, lambda total, name: None) == []
        assert list(journal.done) == ["a/good", "a/bad", "a/last"]
    assert done == ["a/last"]

"""A benchmark on another machine: this one stands for it."""

from __future__ import annotations

import pytest
from command import GUESTS, guest

from nestvmm.bench import remote
from nestvmm.bench.journal import Journal
from nestvmm.bench.remote import Ear, conduct_in
from nestvmm.bench.request import Request
from nestvmm.bench.row import Row
from nestvmm.errors import HostError
from nestvmm.lab import LocalLab

ROW = Row("cpuid", "one", runs=(1.0, 2.0))


def request(*cases: str, **options: object) -> Request:
    return Request(str(GUESTS), cases, ("direct",), runs=10, machine="that lab", **options)  # type: ignore[arg-type]


@pytest.mark.kvm
def test_rows_come_as_they_are_measured() -> None:
    guest("rtt")
    seen: list[tuple[int, str | None]] = []
    with LocalLab() as lab, Journal(None, {}) as journal:
        journal.add("cpuid/direct, guest at L2, KVM at L0", [ROW])
        environment, versions, failed = conduct_in(
            lab, request("cpuid", "mmio"), journal, lambda total, name: seen.append((total, name))
        )
        assert (environment.machine, failed) == ("that lab", [])
        assert versions["python"]
        # what was done is not done again
        mmio = [f"mmio/direct, guest at L2, {by}" for by in ("C at L0", "Python at L1")]
        steps = ["cpuid/direct, guest at L2, KVM at L0", *mmio]
        assert list(journal.done) == steps
        assert journal.done[steps[0]] == [ROW]
        assert [len(row.runs) for row in journal.done[steps[2]]] == [10, 10]
    assert seen == [(3, name) for name in [*steps, None]]


@pytest.mark.kvm
def test_what_cannot_be_is_said() -> None:
    with LocalLab() as lab, Journal(None, {}) as journal, pytest.raises(HostError, match="in the lab: switch: nothing"):
        conduct_in(lab, request("switch"), journal, lambda total, name: None)


@pytest.mark.kvm
def test_a_far_end_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FAR_END", "import sys; sys.exit('no Python here')")
    with LocalLab() as lab, Journal(None, {}) as journal, pytest.raises(HostError, match="status 1: no Python here"):
        conduct_in(lab, request("cpuid"), journal, lambda total, name: None)


def test_a_line_that_a_dead_machine_left_is_dropped() -> None:
    with Journal(None, {}) as journal:
        ear = Ear(journal, lambda total, name: None)
        for piece in (b'{"done": "a", "ro', b'\n\n{"fail', b'ed": []}\n', b"half"):
            ear.take(1, piece)
        ear.take(2, b"a warning")
        assert (ear.failed, journal.done, ear.complaints) == ([], {}, b"a warning")

"""QEMU beside nestvmm, and figures of others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import GUESTS, guest

from nestvmm.bench.case import Choice
from nestvmm.bench.exits import l0_hypercalls
from nestvmm.bench.published import Published
from nestvmm.bench.qemu import Peer
from nestvmm.errors import HostError


def choice(peer: bool = True, icount: bool = False, engines: tuple[str, ...] = ("direct", "svm")) -> Choice:
    return Choice(engines, GUESTS, 2000.0, runs=3, peer=peer, icount=icount, emulated=icount)


def test_peers_are_asked_for() -> None:
    assert list(Peer().steps(choice(peer=False))) == []
    kinds = ["cpuid", "msr-read", "port", "mmio", "timer", *(["hypercall"] if l0_hypercalls() else [])]
    assert [step.name for step in Peer().steps(choice())] == [f"{kind} at L1" for kind in kinds]


@pytest.mark.kvm
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")
def test_the_same_image_under_both() -> None:
    guest("rtt")
    theirs, ours = next(iter(Peer().steps(choice()))).measure()
    assert (theirs.system, theirs.engine, theirs.level, len(theirs.runs)) == ("QEMU", "kvm", 1, 3)
    assert (ours.system, ours.engine, ours.against, len(ours.runs)) == ("nestvmm", "direct", "QEMU, L1", 3)
    assert ours.ratio is not None
    # both are this host's KVM; the least of some is what it takes when nobody else has the processor
    assert 0.3 < (ours.minimum or 0) / (theirs.minimum or 0) < 3


@pytest.mark.kvm
def test_a_qemu_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    guest("rtt")
    step = next(iter(Peer().steps(choice())))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(HostError, match="qemu-system-x86_64 is not installed"):
        step.measure()


@pytest.mark.kvm
def test_a_qemu_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest("rtt")
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\necho no such accelerator >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    step = next(iter(Peer().steps(choice())))
    with pytest.raises(HostError, match="ended with status 3: no such accelerator"):
        step.measure()


def test_what_others_published() -> None:
    (step,) = Published().steps(choice())
    rows = step.measure()
    assert [(row.case, row.level, row.median, row.mode) for row in rows] == [
        ("hypercall", 1, 1575.0, "cascade"),
        ("hypercall", 2, 37733.0, "cascade"),
        ("hypercall", 3, 857578.0, "cascade"),
    ]
    assert {row.note for row in rows} == {"another machine's"}
    assert all("ASPLOS 2020, table 3" in row.source for row in rows)

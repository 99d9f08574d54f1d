"""What instructions do at the KVM at hand."""

from __future__ import annotations

import pytest

from nestvmm.engines.trial import Trial, try_instructions
from nestvmm.kvm import Kvm

pytestmark = pytest.mark.kvm


def test_outcomes() -> None:
    codes = [b"\x90", b"\x0f\x0b", b"\x8b\x04\x25\0\0\0\x80", b"\x48\x8b\x08", b"\x48\x89\x08"]
    with Kvm() as kvm:
        found = try_instructions(kvm, codes, kvm.get_supported_cpuid())
    assert found == [
        (Trial.RUNS, Trial.RUNS),
        (Trial.UNDEFINED, Trial.UNDEFINED),
        (Trial.FAULTS, Trial.FAULTS),
        (Trial.RUNS, Trial.RUNS),
        (Trial.RUNS, Trial.RUNS),
    ]


def test_one_that_is_handed_over_does_not_spoil_the_next() -> None:
    popcnt = b"\xf3\x0f\xb8\xc3"
    with Kvm() as kvm:
        entries = kvm.get_supported_cpuid()
        alone = try_instructions(kvm, [popcnt], entries)
        found = try_instructions(kvm, [b"\x90", popcnt, b"\x0f\x0b", popcnt, b"\x90"], entries)
    assert alone[0][0] in (Trial.RUNS, Trial.HANDED_OVER)
    assert found == [
        (Trial.RUNS, Trial.RUNS),
        *alone,
        (Trial.UNDEFINED, Trial.UNDEFINED),
        *alone,
        (Trial.RUNS, Trial.RUNS),
    ]

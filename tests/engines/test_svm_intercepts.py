"""The intercepts of a VMCB for what levels claim: exactly those bits."""

from __future__ import annotations

import pytest

from nestvmm.engines import MsrRange
from nestvmm.engines.svm_intercepts import msr_map, port_map, vectors
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import QUALIFIER_MAX, Scope

R, W = Direction.READ, Direction.WRITE
REASON = ExitReason


def codes(*scopes: Scope) -> set[int]:
    """The exit codes whose bits are set."""
    return {32 * number + bit for number, word in enumerate(vectors(scopes)) for bit in range(32) if word >> bit & 1}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (Scope(REASON.CPUID), {0x72}),
        (Scope(REASON.CPUID, 0x40000000, 0x400000FF), {0x72}),  # any leaf exits
        (Scope(REASON.CR_READ, 0, 3), {0, 2, 3}),
        (Scope(REASON.CR_WRITE, 4, 8), {0x14, 0x18}),
        (Scope(REASON.CR_WRITE, 0, 0, R), set()),
        (Scope(REASON.DR_READ), set(range(0x20, 0x28))),
        (Scope(REASON.DR_WRITE, 7, 7, W), {0x37}),
        (Scope(REASON.EXCEPTION, 13, 14), {0x4D, 0x4E}),
        (Scope(REASON.EXCEPTION, 2, 2), set()),  # an NMI is no exception's exit
        (Scope(REASON.DESCRIPTOR_TABLE, 0, 0), {0x67, 0x6B}),
        (Scope(REASON.DESCRIPTOR_TABLE, 1, 1, W), {0x6A}),
        (Scope(REASON.DESCRIPTOR_TABLE, 0, QUALIFIER_MAX, R), {0x66, 0x67, 0x68, 0x69}),
        (Scope(REASON.MWAIT), {0x8B}),
        (Scope(REASON.SVM_INSTRUCTION, 0x84, 0x85), {0x84, 0x85}),
        (Scope(REASON.RDMSR, 0x10, 0x10), {0x7C}),
        (Scope(REASON.WRMSR, 0x10, 0x10), {0x7C}),
        (Scope(REASON.IO, 0x80, 0x80, W), {0x7B}),
        (Scope(REASON.RDRAND), set()),  # VMX's alone
        (Scope(REASON.NESTED_PAGE_FAULT), set()),  # no bit
    ],
)
def test_intercepts_are_those_of_the_claimed_qualifiers(scope: Scope, expected: set[int]) -> None:
    assert codes(scope) == expected


def test_several_claims_add_up() -> None:
    assert codes(Scope(REASON.RDTSC), Scope(REASON.EXCEPTION, 14, 14), Scope(REASON.RDTSC)) == {0x6E, 0x4E}
    assert codes() == set()


def intercepted(bits: bytes, start: int, offset: int) -> tuple[bool, bool]:
    """Whether reads and writes of the MSR `offset` behind the first of a range exit; its bits start at byte `start`."""
    place, shift = divmod(2 * offset, 8)
    return bool(bits[start + place] >> shift & 1), bool(bits[start + place] >> shift & 2)


def test_the_msr_map_has_two_bits_for_each_msr_of_three_ranges() -> None:
    """AMD APM vol. 2, 15.11."""
    bits = msr_map(
        [
            MsrRange(0x10, 0x11, True, False),
            MsrRange(0x11, 0x11, False, True),
            MsrRange(0x1FFF, 0xC0000000, True, True),
            MsrRange(0xC0011FFF, 0xFFFFFFFF, False, True),
        ]
    )
    assert len(bits) == 0x2000
    assert [intercepted(bits, 0, index) for index in (0xF, 0x10, 0x11, 0x12)] == [
        (False, False),
        (True, False),
        (True, True),
        (False, False),
    ]
    assert (intercepted(bits, 0, 0x1FFF), intercepted(bits, 0x800, 0)) == ((True, True), (True, True))
    assert (intercepted(bits, 0x800, 1), intercepted(bits, 0x1000, 0x1FFF)) == ((False, False), (False, True))
    assert sum(byte.bit_count() for byte in bits) == 3 + 4 + 1


def test_the_port_map_has_a_bit_for_each_port() -> None:
    bits = port_map([Scope(REASON.IO, 0x60, 0x64), Scope(REASON.IO, 0xFFFF, QUALIFIER_MAX), Scope(REASON.RDMSR, 1, 1)])
    assert len(bits) == 0x3000
    assert {8 * place + bit for place, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1} == {
        *range(0x60, 0x65),
        0xFFFF,
    }

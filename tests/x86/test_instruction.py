"""An instruction's key: the same in Python and in C, whatever the prefixes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nestvmm._native import lib
from nestvmm.x86.instruction import instruction_key, key_range

PREFIXES = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x40, 0x48, 0x4F]


@pytest.mark.parametrize(
    ("code", "key"),
    [
        ("f30fb8c3", "f30fb8c3"),
        ("f3480fb8c3", "f30fb8c3"),
        ("66f30fb8c3", "f30fb8c3"),
        ("f366640fb803", "f30fb803"),
        ("f2f30fb8c3", "f30fb8c3"),
        ("66f20f38f1c3", "f20f38f1c3"),
        ("660f38f007", "660f38f007"),
        ("480f38f007", "0f38f007"),
        ("f0f30fb8c3", "f0f30fb8c3"),
        ("c5f877", "c5f877"),
        ("66", "66"),
        ("4865", ""),
    ],
)
def test_prefixes_that_do_not_tell_instructions_apart_are_left_out(code: str, key: str) -> None:
    assert instruction_key(bytes.fromhex(code)).hex() == key


@given(st.binary(max_size=15) | st.lists(st.sampled_from([*PREFIXES, 0x0F, 0xB8]), max_size=15).map(bytes))
@example(b"")
@example(b"\x66" * 15)
def test_c_gives_the_same_key(code: bytes) -> None:
    key = int.from_bytes(instruction_key(code)[:8].ljust(8, b"\0"), "big")
    assert lib.nv_instruction_key(code, len(code)) == key


def test_a_prefix_is_a_range_of_qualifiers() -> None:
    assert key_range(b"\xf3\x0f\xb8") == (0xF30FB80000000000, 0xF30FB8FFFFFFFFFF)
    assert key_range(b"\xf3\x48\x0f\xb8") == key_range(b"\xf3\x0f\xb8")


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (b"", "an instruction prefix has 1 to 8 bytes, not 0"),
        (bytes(9), "an instruction prefix has 1 to 8 bytes, not 9"),
        (b"\x48", "48: only prefixes, which do not tell an instruction"),
    ],
)
def test_what_is_no_prefix_of_an_instruction(prefix: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        key_range(prefix)

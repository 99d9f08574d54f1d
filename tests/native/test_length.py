"""The length of interceptable instructions, against iced-x86: any prefixes, operands and number of bytes at hand."""

from __future__ import annotations

import errno

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from iced_x86 import Decoder, DecoderError, DecoderOptions

from nestvmm._native import lib

SHORT, OTHER = -errno.ENODATA, -errno.EINVAL

PREFIXES = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3]
ONE_BYTE = [
    0x17,
    *range(0x6C, 0x70),
    0x8E,
    0x9C,
    0x9D,
    0xCC,
    0xCD,
    0xCE,
    0xCF,
    *range(0xE4, 0xE8),
    *range(0xEC, 0xF0),
    0xF1,
    0xF4,
]
TWO_BYTES = [0x00, 0x01, 0x05, 0x06, 0x07, 0x08, 0x09, *range(0x20, 0x24), *range(0x30, 0x34), 0xA2, 0xAA]
OPCODES = [
    *(bytes([opcode]) for opcode in ONE_BYTE),
    b"\xf3\x90",  # PAUSE
    *(bytes([0x0F, opcode]) for opcode in TWO_BYTES),
    b"\x66\x0f\x38\x82",  # INVPCID
]
# Every instruction of AMD APM vol. 2, 15.9, in its shortest form.
SHORTEST = {
    "cpuid": "0fa2",
    "rdtsc": "0f31",
    "rdtscp": "0f01f9",
    "rdpmc": "0f33",
    "rdpru": "0f01fd",
    "hlt": "f4",
    "pause": "f390",
    "invd": "0f08",
    "wbinvd": "0f09",
    "wbnoinvd": "f30f09",
    "monitor": "0f01c8",
    "mwait": "0f01c9",
    "monitorx": "0f01fa",
    "mwaitx": "0f01fb",
    "xsetbv": "0f01d1",
    "invlpg": "0f0138",
    "invlpga": "0f01df",
    "invpcid": "660f388200",
    "mov cr": "0f22c0",
    "mov dr": "0f23c0",
    "clts": "0f06",
    "lmsw": "0f01f0",
    "smsw": "0f01e0",
    "sgdt": "0f0100",
    "sidt": "0f0108",
    "lgdt": "0f0110",
    "lidt": "0f0118",
    "sldt": "0f00c0",
    "str": "0f00c8",
    "lldt": "0f00d0",
    "ltr": "0f00d8",
    "rdmsr": "0f32",
    "wrmsr": "0f30",
    "in": "ec",
    "in imm8": "e460",
    "insb": "6c",
    "outsd": "6f",
    "intn": "cd80",
    "int3": "cc",
    "into": "ce",
    "icebp": "f1",
    "iret": "cf",
    "pushf": "9c",
    "popf": "9d",
    "rsm": "0faa",
    "vmrun": "0f01d8",
    "vmmcall": "0f01d9",
    "vmload": "0f01da",
    "vmsave": "0f01db",
    "stgi": "0f01dc",
    "clgi": "0f01dd",
    "skinit": "0f01de",
    "invlpgb": "0f01fe",
    "tlbsync": "0f01ff",
    "mcommit": "f30f01fa",
}


def length(code: bytes, bits: int) -> int:
    return int(lib.nv_instruction_length(code, len(code), bits))


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("name", SHORTEST)
def test_shortest_forms(name: str, bits: int) -> None:
    code = bytes.fromhex(SHORTEST[name])
    assert length(code, bits) == len(code)
    assert length(code + b"\x90" * 8, bits) == len(code)
    assert length(code[:-1], bits) == SHORT


@st.composite
def instructions(draw: st.DrawFn) -> tuple[bytes, int]:
    """Prefixes, an opcode, and random bytes behind it; bits of the code segment."""
    bits = draw(st.sampled_from([16, 32, 64]))
    prefixes = bytes(draw(st.lists(st.sampled_from(PREFIXES), max_size=draw(st.sampled_from([0, 2, 13])))))
    opcode = draw(st.sampled_from(OPCODES))
    rex = bytes([draw(st.integers(0x40, 0x4F))]) if bits == 64 and draw(st.booleans()) else b""
    mandatory, opcode = (opcode[:1], opcode[1:]) if opcode[0] in (0x66, 0xF3) else (b"", opcode)
    return prefixes + mandatory + rex + opcode + draw(st.binary(min_size=8, max_size=8)), bits


@settings(max_examples=3000)
@given(instructions())
@example((b"\x67" * 10 + b"\x0f\x01\x14\x25\0\0\0\0", 64))
def test_iced_says_the_same(case: tuple[bytes, int]) -> None:
    code, bits = case
    decoder = Decoder(bits, code[:15], DecoderOptions.NO_INVALID_CHECK | DecoderOptions.AMD)
    instruction = decoder.decode()
    found = length(code, bits)
    if instruction.is_invalid:
        if decoder.last_error == DecoderError.NO_MORE_BYTES:
            assert found == OTHER  # over 15 bytes
        return  # no instruction, so nothing to intercept
    assert found == instruction.len, (code.hex(), bits)
    for count in range(found):
        assert length(code[:count], bits) == SHORT, (code.hex(), bits, count)


@settings(max_examples=1000)
@given(st.binary(max_size=20), st.sampled_from([16, 32, 64]))
def test_any_bytes_give_a_length_within_them_or_none(code: bytes, bits: int) -> None:
    found = length(code, bits)
    assert found in (SHORT, OTHER) or 1 <= found <= min(len(code), 15)


@pytest.mark.parametrize("code", ["90", "0f0b", "40", "c3", "0f3881", "c5f877"])
def test_what_is_never_intercepted_is_not_measured(code: str) -> None:
    expected = 1 if code == "90" else OTHER  # NOP is PAUSE without its prefix
    bits = 32 if code == "40" else 64  # INC EAX
    assert length(bytes.fromhex(code) + bytes(8), bits) == expected

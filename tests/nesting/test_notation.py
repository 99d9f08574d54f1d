"""What users write: scopes and designations, sizes, --level."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvmm.errors import UsageError
from nestvmm.nesting import LevelSpec
from nestvmm.nesting.designation import QUALIFIER_MAX, Ceiling, Scope
from nestvmm.nesting.level_option import parse_level
from nestvmm.nesting.notation import HIGHEST, parse_designation, parse_scopes
from nestvmm.nesting.sizes import parse_number, parse_size
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier
from nestvmm.x86.instruction import instruction_key

R, W = Direction.READ, Direction.WRITE
IO, MMIO, RDMSR, WRMSR = ExitReason.IO, ExitReason.MMIO, ExitReason.RDMSR, ExitReason.WRMSR
EMULATION = ExitReason.EMULATION_FAILURE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("io", [Scope(IO)]),
        ("io:*", [Scope(IO)]),
        ("io:*:w", [Scope(IO, direction=W)]),
        ("io:w", [Scope(IO, direction=W)]),
        ("io:0x3f8", [Scope(IO, 0x3F8, 0x3F8)]),
        ("io:0x3f8-0x3ff", [Scope(IO, 0x3F8, 0x3FF)]),
        ("io:0x3f8+8:r", [Scope(IO, 0x3F8, 0x3FF, R)]),
        ("io:65535", [Scope(IO, 0xFFFF, 0xFFFF)]),
        ("io:007", [Scope(IO, 7, 7)]),
        ("io:08+010", [Scope(IO, 8, 17)]),
        ("msr:0xc0000080", [Scope(RDMSR, 0xC0000080, 0xC0000080), Scope(WRMSR, 0xC0000080, 0xC0000080)]),
        ("wrmsr:0x10-0x1f", [Scope(WRMSR, 0x10, 0x1F)]),
        ("mmio:0xd0000000+0x1000", [Scope(MMIO, 0xD0000000, 0xD0000FFF)]),
        ("mmio:0xfffffffffffff", [Scope(MMIO, (1 << 52) - 1, (1 << 52) - 1)]),
        ("hlt", [Scope(ExitReason.HLT)]),
        ("debug:3", [Scope(ExitReason.DEBUG, 3, 3)]),
        ("cpuid:0x40000000", [Scope(ExitReason.CPUID, 0x40000000, 0x40000000)]),
        ("emulation-failure:0FB8", [Scope(EMULATION, 0x0FB8 << 48, (0x0FB8 << 48) | (1 << 48) - 1)]),
        ("emulation-failure:1122334455667788", [Scope(EMULATION, 0x1122334455667788, 0x1122334455667788)]),
    ],
)
def test_scopes(text: str, expected: list[Scope]) -> None:
    assert parse_scopes(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("oi:5", "unknown exit reason 'oi'; `nestvmm reasons` lists them"),
        ("IO_:5", "unknown exit reason 'IO_'"),
        ("", "unknown exit reason ''"),
        ("hlt:1", "hlt takes no qualifier"),
        ("io:", "expected a port, FIRST-LAST or FIRST[+]COUNT, not ''"),
        ("io:x", "expected a port, .*, not 'x'"),
        ("io:-1", "expected a port, .*, not '-1'"),
        ("io:1-2-3", "expected a port, .*, not '1-2-3'"),
        ("io:0x10000", "port 0x10000 to 0x10000 is no range within 0 to 0xffff"),
        ("io:0xffff+2", "port 0xffff to 0x10000 is no range within"),
        ("io:5-4", "port 0x5 to 0x4 is no range within"),
        ("io:5+0", "port 0x5 to 0x4 is no range within"),
        ("rdmsr:0x100000000", "MSR index 0x100000000 to 0x100000000 is no range within 0 to 0xffffffff"),
        ("mmio:0x10000000000000", "guest-physical address .* is no range within 0 to 0xfffffffffffff"),
        ("debug:256", "vector 0x100 to 0x100 is no range within 0 to 0xff"),
        ("io:5:r:w", "too many colons"),
        ("io:5:6", "too many colons"),
        ("emulation-failure:0f1", "expected 1 to 8 instruction bytes in hexadecimal, not '0f1'"),
        ("emulation-failure:112233445566778899", "expected 1 to 8 instruction bytes"),
    ],
)
def test_a_wrong_scope_is_refused_with_the_text_and_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_scopes(text)
    assert str(caught.value).startswith(f"designation {text!r}: ")


def test_designation_is_a_ceiling_for_each_reason() -> None:
    assert parse_designation("io:0x80:w=L2", 4) == [Ceiling(2, Scope(IO, 0x80, 0x80, W))]
    assert parse_designation("msr:0x10=l0", 1) == [
        Ceiling(0, Scope(RDMSR, 0x10, 0x10)),
        Ceiling(0, Scope(WRMSR, 0x10, 0x10)),
    ]


@pytest.mark.parametrize(
    ("text", "levels", "message"),
    [
        ("io", 3, r"expected REASON\[:QUALIFIER\]=Ln, such as io:0x3f8-0x3ff=L2"),
        ("io=2", 3, "expected REASON"),
        ("io=L", 3, "expected REASON"),
        ("io=L-1", 3, "expected REASON"),
        ("io=L3", 3, "L3 is no hypervisor of this tower; it has L0 to L2"),
        ("io=L1", 1, "L1 is no hypervisor of this tower; it has L0 only"),
        ("=L0", 1, "unknown exit reason ''"),
        ("vmrun=L1", 1, "unknown exit reason 'vmrun'"),
        ("hypercall=L2", 1, "L2 is no hypervisor of this tower; it has L0 only"),
        ("vmx-instruction:27=L1", 1, "L1 is an image, which takes all of VMX; write vmx-instruction=L1"),
        ("vmx-instruction=L16", 1, "L0 runs guests of images up to L15, and so of none at L16"),
        ("svm-instruction:0x80=L1", 1, "L1 is an image, which takes all of SVM; write svm-instruction=L1"),
        ("svm-instruction:w=L1", 1, "L1 is an image, which takes all of SVM"),
        ("svm-instruction=L16", 1, "L0 runs guests of images up to L15, and so of none at L16"),
        ("svm-instruction=L18", 3, "L0 runs guests of images up to L17, and so of none at L18"),
    ],
)
def test_a_wrong_designation_is_refused(text: str, levels: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_designation(text, levels)


@pytest.mark.parametrize(("level", "levels"), [(1, 1), (15, 1), (3, 3), (17, 3)])
@pytest.mark.parametrize("reason", [ExitReason.SVM_INSTRUCTION, ExitReason.VMX_INSTRUCTION])
def test_an_image_takes_those_instructions_of_the_levels_above_it(reason: ExitReason, level: int, levels: int) -> None:
    assert parse_designation(f"{reason.label}=L{level}", levels) == [Ceiling(level, Scope(reason))]


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    reason = draw(st.sampled_from(list(ExitReason)))
    direction = draw(st.sampled_from([None, R, W]))
    kind = REASONS[reason].qualifier
    if kind is Qualifier.NONE or draw(st.booleans()):
        return Scope(reason, direction=direction)
    if kind is Qualifier.INSTRUCTION:
        # an instruction is known by its key
        prefix = draw(st.binary(min_size=1, max_size=8).filter(lambda code: instruction_key(code) == code))
        first, last = prefix.ljust(8, b"\0"), prefix.ljust(8, b"\xff")
        return Scope(reason, int.from_bytes(first, "big"), int.from_bytes(last, "big"), direction)
    first, last = sorted(draw(st.tuples(*[st.integers(0, HIGHEST.get(kind, QUALIFIER_MAX))] * 2)))
    return Scope(reason, first, last, direction)


@given(scopes())
def test_a_scope_can_be_written_as_its_label(scope: Scope) -> None:
    assert parse_scopes(f"{scope.reason.label}:{scope.label}") == [scope]


@given(st.text(max_size=30) | st.from_regex(r"(io|msr|hlt|emulation-failure)(:[0-9a-fx+*-]{0,12}){0,3}(=[lL]\d)?"))
def test_no_text_is_anything_but_a_designation_or_a_usage_error(text: str) -> None:
    try:
        ceilings = parse_designation(text, 4)
    except UsageError:
        return
    assert all(0 <= one.level < 4 for one in ceilings)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512 << 20),
        (512, 512 << 20),
        ("1b", 1),
        ("4096B", 4096),
        ("16k", 16384),
        ("16KiB", 16384),
        ("3M", 3 << 20),
        ("2g", 2 << 30),
        ("1T", 1 << 40),
        ("0x1000", 4096),
        (" 7m ", 7 << 20),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text, "memory") == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "1MM", "0x", "0xg", "12 34", "1" * 19, "0x" + "1" * 17, -1])
def test_what_is_no_size_is_refused_by_name(text: str | int) -> None:
    with pytest.raises(UsageError, match=r"^\[guest\] memory: .* is no size; write a whole number with K, M or G$"):
        parse_size(text, "[guest] memory")


def test_numbers_are_bytes_without_a_unit() -> None:
    assert [parse_number(text, "base") for text in ("4096", 4096, "0x1000", "4k")] == [4096] * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("console", ("console", {})),
        ("a.b:C,x=1,y=0x1F,z=-5", ("a.b:C", {"x": 1, "y": 31, "z": -5})),
        ("f.py:C,a=true,b=no,c=On,d=OFF", ("f.py:C", {"a": True, "b": False, "c": True, "d": False})),
        ("c,file=/tmp/a=b,word=hello,empty=", ("c", {"file": "/tmp/a=b", "word": "hello", "empty": ""})),
        ("c,a=007,b=-010,c=0b1", ("c", {"a": 7, "b": -10, "c": "0b1"})),
        ("c,a=-0x10", ("c", {"a": -16})),
    ],
)
def test_level_option(text: str, expected: tuple[str, dict[str, object]]) -> None:
    level = parse_level(text)
    name, options = level.hypervisor, level.options
    assert (name, options) == expected
    assert [type(value) for value in options.values()] == [type(value) for value in expected[1].values()]


@pytest.mark.parametrize(
    ("text", "image", "append"),
    [
        ("image=a/b.elf", "a/b.elf", ""),
        ("image=b.elf,append=level=2 quiet,loud", "b.elf", "level=2 quiet,loud"),
    ],
)
def test_a_level_of_machine_code(text: str, image: str, append: str) -> None:
    assert parse_level(text) == LevelSpec(image=Path(image), append=append)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("console,port", "--level 'console,port': expected option=value after the name, not 'port'"),
        ("console,=5", "expected option=value after the name, not '=5'"),
        ("console,a b=5", "expected option=value after the name, not 'a b=5'"),
        ("console,", "expected option=value after the name, not ''"),
        (",a=1", "--level ',a=1': no hypervisor is named"),
        ("", "no hypervisor is named"),
        ("image=", "--level 'image=': expected image=FILE, or image=FILE,append=TEXT"),
        ("image=,append=x", "expected image=FILE, or image=FILE,append=TEXT"),
    ],
)
def test_a_wrong_level_option_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_level(text)
    assert message in str(caught.value)


@given(st.text(max_size=40))
def test_no_text_is_anything_but_a_level_or_a_usage_error(text: str) -> None:
    try:
        level = parse_level(text)
        name, options = level.hypervisor, level.options
    except UsageError:
        return
    assert name or level.image is not None
    assert all(isinstance(value, str | int | bool) for value in options.values())

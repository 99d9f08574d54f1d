"""Tower files: what they say, and that each mistake is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvmm.errors import UsageError
from nestvmm.nesting import GuestSpec, LevelSpec, TowerSpec, load_tower_file, parse_tower
from nestvmm.nesting.memory import Region, Rights

FOLDER = Path("/towers")
GUEST = '[guest]\nkernel = "a.elf"\n'


def test_everything_that_a_tower_file_can_say() -> None:
    text = """
engine = "direct"
machine = "bare"
unclaimed = "error"
timeout = 2.5
io-intercepts = true
designate = ["io:0x80=L0", "hlt=L1"]
expose = ["L0:-aes"]

[guest]
kernel = "events/events.elf"
append = "quiet"
initrd = "ram.gz"
address = "1M"
memory = "64M"

[[level]]
hypervisor = "console"
options = { irq = 4, loud = true, name = "x" }
memory = [
    { base = 0, size = "32M", at = "16M", rights = "rw" },
    { base = "0xd0000000", size = 0x1000 },
]

[[level]]
hypervisor = "my/own.py:Mine"
expose = ["+popcnt", "-aes"]

[[level]]
hypervisor = "package.module:Class"
memory = []

[[level]]
image = "minivisor.elf"
append = "level=4"
"""
    assert parse_tower(text, FOLDER) == TowerSpec(
        GuestSpec(FOLDER / "events/events.elf", "quiet", str(FOLDER / "ram.gz"), 1 << 20, 64 << 20),
        (
            LevelSpec(
                "console",
                {"irq": 4, "loud": True, "name": "x"},
                (Region(0, 32 << 20, 16 << 20, Rights.READ | Rights.WRITE), Region(0xD0000000, 0x1000, 0)),
            ),
            LevelSpec(str(FOLDER / "my/own.py:Mine"), expose=("+popcnt", "-aes")),
            LevelSpec("package.module:Class", {}, ()),
            LevelSpec(image=FOLDER / "minivisor.elf", append="level=4"),
        ),
        ("io:0x80=L0", "hlt=L1"),
        engine="direct",
        machine="bare",
        unclaimed="error",
        timeout=2.5,
        expose=("L0:-aes",),
        io_intercepts=True,
    )


def test_what_a_tower_file_need_not_say() -> None:
    spec = parse_tower(GUEST, FOLDER)
    assert spec == TowerSpec(GuestSpec(FOLDER / "a.elf", memory=128 << 20))
    assert (spec.engine, spec.machine, spec.unclaimed, spec.timeout, spec.height) == ("auto", "auto", "ignore", None, 1)


def test_an_absolute_path_stays() -> None:
    assert parse_tower('[guest]\nkernel = "/boot/a"\n', FOLDER).guest.kernel == Path("/boot/a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x =", "not a TOML file: Invalid value (at end of document)"),
        ("x = " + "[" * 5000, "not a TOML file: "),
        ("", '[guest] names no kernel; write kernel = "IMAGE"'),
        ('[guest]\nkernel = ""', "[guest] names no kernel"),
        ("guest = 5", "the tower guest: expected a table, not 5"),
        ("[guest]\nkernel = 5", "[guest] kernel: expected a string, not 5"),
        ('[guest]\nkernel = "a\\u0000b"', "[guest] kernel: a NUL character"),
        (GUEST + "kernal = 1", "[guest]: unknown key 'kernal'; did you mean kernel?"),
        (GUEST + "zz = 1", "[guest]: unknown key 'zz'; known are kernel, initrd, address, append, memory"),
        (GUEST + "memory = 1.5", "[guest] memory: expected a number or a string, not 1.5"),
        (GUEST + 'memory = "big"', "[guest] memory: 'big' is no size"),
        (GUEST + "memory = true", "[guest] memory: expected a number or a string, not True"),
        (GUEST + "address = -1", "[guest] address: -1 is no number from 0 up"),
        ('engin = "x"\n' + GUEST, "the tower: unknown key 'engin'; did you mean engine?"),
        ('engine = "fast"\n' + GUEST, "the tower engine: 'fast' is not one of auto, direct, svm, vmx"),
        ('machine = "amiga"\n' + GUEST, "the tower machine: 'amiga' is not one of auto, pc, bare"),
        ("unclaimed = 1\n" + GUEST, "the tower unclaimed: expected a string, not 1"),
        ("io-intercepts = 1\n" + GUEST, "the tower io-intercepts: expected true or false, not 1"),
        ("timeout = 0\n" + GUEST, "the tower timeout: 0 is no positive number of seconds"),
        ("timeout = nan\n" + GUEST, "the tower timeout: nan is no positive"),
        ("timeout = inf\n" + GUEST, "the tower timeout: inf is no positive"),
        ('timeout = "1"\n' + GUEST, "the tower timeout: expected a number, not '1'"),
        ("timeout = 0x" + "f" * 6000 + "\n" + GUEST, "not a TOML file: an integer of more than 64 bits"),
        ("designate = [[0x" + "f" * 6000 + "]]\n" + GUEST, "not a TOML file: an integer of more than 64 bits"),
        ("timeout = " + "9" * 6000 + "\n" + GUEST, "not a TOML file: "),
        ('designate = "io=L0"\n' + GUEST, "the tower designate: expected a list, not 'io=L0'"),
        ("designate = [1]\n" + GUEST, "the tower designate: expected strings, not 1"),
        (GUEST + "[level]", "the tower level: one of several; write [[level]], with two brackets"),
        ("level = 1\n" + GUEST, "the tower level: expected a list, not 1"),
        ("level = [1]\n" + GUEST, "the tower level: expected tables, not 1"),
        (GUEST + "[[level]]", '[[level]] 1 names no hypervisor; write hypervisor = "NAME", "module:Class" or'),
        (GUEST + '[[level]]\nhypervisor="a"\n[[level]]\nx=1', "[[level]] 2 names no hypervisor"),
        (GUEST + '[[level]]\nhypervisor="a"\nimage="b"', "[[level]] 1 names both a hypervisor and an image"),
        (GUEST + '[[level]]\nimage="b"\noptions={}', "[[level]] 1: unknown key 'options'; known are hypervisor, image"),
        (GUEST + "[[level]]\nimage=1", "[[level]] 1 image: expected a string, not 1"),
        (
            GUEST + '[[level]]\nhypervisor="a"\nfoo=1',
            "[[level]] 1: unknown key 'foo'; known are hypervisor, image, options, ",
        ),
        (GUEST + '[[level]]\nhypervisor="a"\nmemroy=1', "[[level]] 1: unknown key 'memroy'; did you mean memory?"),
        (GUEST + '[[level]]\nhypervisor="a"\noptions={a=1.5}', "[[level]] 1 options a: expected a string"),
        (GUEST + '[[level]]\nhypervisor="a"\nmemory=1', "[[level]] 1 memory: expected a list, not 1"),
        (GUEST + '[[level]]\nhypervisor="a"\nmemory=[{base=0}]', "[[level]] 1 [[memory]] 1 gives no size"),
        (GUEST + '[[level]]\nhypervisor="a"\nmemory=[{size=4096}]', "[[level]] 1 [[memory]] 1 gives no base"),
        (
            GUEST + '[[level]]\nhypervisor="a"\nmemory=[{base=0,size=4096,rights="rz"}]',
            "[[level]] 1 [[memory]] 1 rights: 'rz' is not made of r, w and x",
        ),
        (
            GUEST + '[[level]]\nhypervisor="a"\nmemory=[{base=0,size=4096,rights=""}]',
            "[[level]] 1 [[memory]] 1 rights: ''",
        ),
        (
            GUEST + '[[level]]\nhypervisor="a"\nmemory=[{base=0,size=4096,too=1}]',
            "[[level]] 1 [[memory]] 1: unknown key 'too'",
        ),
        (
            GUEST + '[[level]]\nhypervisor="a"\nmemory=[{base=0,size=100}]',
            "[[level]] 1 [[memory]] 1: memory region base 0x0 size 0x64 at 0x0: size is no multiple of the page size",
        ),
        (
            GUEST + '[[level]]\nhypervisor="a"\n' * 64,
            "64 levels of hypervisors; at most 63 fit under a guest",
        ),
    ],
)
def test_each_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tower(text, FOLDER)
    assert str(caught.value).startswith(message)


def test_sixty_three_hypervisors_fit() -> None:
    assert parse_tower(GUEST + '[[level]]\nhypervisor="a"\n' * 63, FOLDER).height == 64


def test_a_file_is_read_with_paths_beside_it_and_errors_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(GUEST)
    assert load_tower_file(file).guest.kernel == tmp_path / "a.elf"
    file.write_text("x = 1")
    with pytest.raises(UsageError, match=r"t\.toml: \[guest\] names no kernel"):
        load_tower_file(file)
    file.write_bytes(b"\x7fELF\xff\xfe")
    with pytest.raises(UsageError, match=r"t\.toml: not UTF-8 text"):
        load_tower_file(file)
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="larger than 1048576 bytes; this is no tower file"):
        load_tower_file(file)
    with pytest.raises(UsageError, match=r"missing\.toml: No such file or directory"):
        load_tower_file(tmp_path / "missing.toml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_tower_file(tmp_path)


_WORDS = """engine machine unclaimed timeout designate expose guest level kernel memory base size at rights options
hypervisor append initrd address x"""
_KEYS = st.sampled_from(_WORDS.split())
_VALUES = st.recursive(
    st.sampled_from(['"a"', '"auto"', '"64M"', '"rw"', "0", "4096", "-1", "1.5", "true", "nan", "1979-05-27", '""'])
    | st.integers(-(1 << 70), 1 << 70).map(str),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
        | st.dictionaries(_KEYS, inner, max_size=4).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(_KEYS, _VALUES, max_size=6), st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_no_tower_file_is_anything_but_a_tower_or_a_usage_error(top: dict[str, str], guest: dict[str, str]) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in top.items())
    if "guest" not in top:
        text += '[guest]\nkernel = "a"\n' + "".join(f"{k} = {v}\n" for k, v in guest.items() if k != "kernel")
    try:
        spec = parse_tower(text, FOLDER)
    except UsageError:
        return
    assert spec.height >= 1

"""hello and multiboot: the two ways into a guest, at L0's console and above hypervisors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import guest, nestvmm

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_hello_walks_its_memory(levels: int) -> None:
    above = [word for _ in range(levels) for word in ("--level", "console")]
    ended = nestvmm("run", guest("hello"), "-m", 16, "-a", f"level={levels + 1}", *above)
    first, second = ended.out.decode().splitlines()
    assert first == f"hello from level {levels + 1}"
    found = re.fullmatch("memory (0x[0-9a-f]+) to 0x1000000: ([0-9]+) pages hold what was written", second)
    assert found is not None
    assert int(found[2]) == ((16 << 20) - int(found[1], 16)) // 4096
    assert (ended.status, ended.err) == (0, "")


@pytest.mark.parametrize(("memory", "pages"), [("2M", 249), ("5000K", None), (3, None), ("0x400000", None)])
def test_memory_sizes(memory: object, pages: int | None) -> None:
    ended = nestvmm("run", guest("hello"), "-m", memory)
    assert (ended.status, ended.err) == (0, "")
    assert pages is None or f"{pages} pages hold" in ended.out.decode()


def test_more_memory_than_fits_below_4_gib() -> None:
    """RAM goes on at 4 GiB, costs nothing until it is touched, and hello sees what lies below 3 GiB."""
    ended = nestvmm("run", guest("hello"), "-m", "64G", "-a", "walk=1")
    assert (ended.status, ended.err) == (0, "")
    assert b"256 pages hold" in ended.out
    assert ended.peak < 128 << 20


def test_multiboot_gets_what_the_specification_says(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1" * 5000)
    modules = f"{tmp_path}/one first module,{tmp_path}/one"
    ended = nestvmm("run", guest("multiboot"), "-a", "with a command line", "-i", modules, "-m", 32)
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.decode().splitlines()
    assert [line for line in lines if not line.endswith("type 2")] == [
        "hello from multiboot",
        "memory 639 KiB below 1 MiB, 31744 KiB above",
        f"command line {guest('multiboot')} with a command line",
        f"module 5000 bytes, {tmp_path}/one first module",
        f"module 5000 bytes, {tmp_path}/one",
        "range 0x0000000000000000 size 0x000000000009fc00 type 1",
        "range 0x0000000000100000 size 0x0000000001f00000 type 1",
    ]


def test_multiboot_above_hypervisors() -> None:
    ended = nestvmm("run", guest("multiboot"), "--level", "logger,limit=0", "--level", "console", "--json", "-")
    assert (ended.status, ended.err) == (0, "")

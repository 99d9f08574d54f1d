"""guests/vm_linux refuses what it cannot boot; what it boots, tests/bench/test_twice.py measures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command import guest
from patience import PATIENCE


def refused(*words: str | Path) -> tuple[int, str]:
    ended = subprocess.run(
        [guest("vm_linux"), *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def test_wrong_arguments() -> None:
    assert refused() == (1, "usage: vm_linux VMLINUX INITRD MEBIBYTES COMMAND-LINE\n")
    for size in ("0", "words", "3073", "-1"):
        assert refused("a", "b", size, "") == (1, f"vm_linux: {size} MiB: must be 1 to 3072\n")
    assert refused("a", "b", "256", "x" * 2048) == (1, "vm_linux: COMMAND-LINE: at most 2047 bytes\n")


@pytest.mark.kvm
def test_wrong_files(tmp_path: Path) -> None:
    kernel, empty, text = guest("hello"), tmp_path / "empty", tmp_path / "text"
    empty.write_bytes(b"")
    text.write_bytes(b"text")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate((1 << 20) + 1)
    for words, complaint in (
        ((tmp_path / "none", text, "256"), "No such file or directory"),
        ((text, text, "256"), "no ELF64 image"),
        ((empty, text, "256"), "no ELF64 image"),
        ((kernel, text, "1"), "does not fit"),
        ((kernel, tmp_path / "none", "256"), "No such file or directory"),
        ((kernel, empty, "256"), "no initrd that fits"),
        ((kernel, text, "127"), "no initrd that fits"),
        ((kernel, large, "129"), "no initrd that fits"),
    ):
        status, message = refused(*words, "")
        assert (status, complaint in message) == (2, True), (words, message)

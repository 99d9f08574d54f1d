"""The archives that nestvmm.lab.initramfs writes, read back by busybox's cpio."""

from __future__ import annotations

import gzip
import stat
import subprocess
from pathlib import Path

import pytest

from nestvmm.errors import HostError
from nestvmm.lab.initramfs import busybox_initramfs, character_device, directory, executable, file, initramfs, symlink
from nestvmm.lab.tools import find_tool

ENTRIES = {
    "a/b/data": file(b"12345"),
    "a/tool": executable(b"#!/bin/sh\n"),
    "a/link": symlink("b/data"),
    "empty": directory(),
    "none": file(b""),
}


def unpack(archive: bytes, to: Path) -> None:
    cpio = [find_tool("busybox"), "cpio", "-i"]
    subprocess.run(cpio, input=gzip.decompress(archive), cwd=to, check=True, capture_output=True)


def test_entries_come_back_with_type_mode_and_contents(tmp_path: Path) -> None:
    unpack(initramfs(ENTRIES), tmp_path)
    found = {str(path.relative_to(tmp_path)): path.lstat().st_mode for path in tmp_path.rglob("*")}
    assert found == {
        "a": stat.S_IFDIR | 0o755,
        "a/b": stat.S_IFDIR | 0o755,
        "a/b/data": stat.S_IFREG | 0o644,
        "a/tool": stat.S_IFREG | 0o755,
        "a/link": stat.S_IFLNK | 0o777,
        "empty": stat.S_IFDIR | 0o755,
        "none": stat.S_IFREG | 0o644,
    }
    assert (tmp_path / "a/b/data").read_bytes() == b"12345"
    assert (tmp_path / "a/link").readlink() == Path("b/data")


def test_a_device_has_its_numbers_in_the_header() -> None:
    header = gzip.decompress(initramfs({"console": character_device(5, 1)}))[:110]
    fields = [int(header[at : at + 8], 16) for at in range(6, 110, 8)]
    assert header[:6] == b"070701"
    assert fields == [1, stat.S_IFCHR | 0o600, 0, 0, 1, 0, 0, 0, 0, 5, 1, len("console") + 1, 0]


def test_the_same_entries_make_the_same_bytes() -> None:
    assert initramfs(ENTRIES) == initramfs(dict(ENTRIES))


def test_busybox_initramfs_runs_its_init(tmp_path: Path) -> None:
    devices = {"dev/console": file(b"")}  # making a device needs root
    unpack(busybox_initramfs("#!/bin/busybox sh\nexit 3\n", {"etc/name": file(b"x"), **devices}), tmp_path)
    assert (tmp_path / "etc/name").read_bytes() == b"x"
    assert subprocess.run([tmp_path / "bin/busybox", "sh", tmp_path / "init"], check=False).returncode == 3


def test_a_busybox_with_libraries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF...../lib64/ld-linux-x86-64.so.2")
    busybox.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="not linked statically: apt-get install busybox-static"):
        busybox_initramfs("")

"""Writes an initramfs: a gzipped "newc" cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst).

Own code because pip's only library for the format (cpiofile) has not been released since 2011. The output depends on
nothing but the input, so its hash can name it.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nestvmm.errors import HostError
from nestvmm.lab.tools import find_tool

__all__ = [
    "Node",
    "archive",
    "busybox",
    "busybox_initramfs",
    "character_device",
    "directory",
    "executable",
    "file",
    "initramfs",
    "symlink",
]


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of an archive.

    Attributes:
        mode: type and permission bits, as in `st_mode`.
        data: a file's contents or a symlink's target.
        device: (major, minor) of a device node.
        changed: time of the last change, in seconds since 1970.
    """

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    changed: int = 0


def file(data: bytes) -> Node:
    """A plain file, mode 0644."""
    return Node(stat.S_IFREG | 0o644, data)


def executable(data: bytes) -> Node:
    """A program or script, mode 0755."""
    return Node(stat.S_IFREG | 0o755, data)


def directory() -> Node:
    """A directory, mode 0755. Parents of entries are made without being asked for."""
    return Node(stat.S_IFDIR | 0o755)


def symlink(target: str) -> Node:
    """A symbolic link to `target`."""
    return Node(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int) -> Node:
    """A character device, mode 0600."""
    return Node(stat.S_IFCHR | 0o600, device=(major, minor))


def initramfs(entries: Mapping[str, Node]) -> bytes:
    """The gzipped archive that holds `entries` (path without leading slash -> node) and the directories above them."""
    return gzip.compress(archive(entries), compresslevel=1, mtime=0)


def archive(entries: Mapping[str, Node]) -> bytes:
    """The same unpacked; another archive can follow it, and adds to what it holds."""
    tree: dict[str, Node] = {}
    for path, node in entries.items():
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            tree.setdefault(str(parent), directory())
        tree[path] = node
    members = [_member(inode, path, node) for inode, (path, node) in enumerate(tree.items(), 1)]
    return b"".join([*members, _member(0, "TRAILER!!!", Node(0))])


def busybox_initramfs(init: str, entries: Mapping[str, Node] | None = None) -> bytes:
    """An initramfs with busybox, the shell script `init` as /init, /dev/console, mount points and `entries`.

    Applets are reached as `/bin/busybox NAME`; a script that wants them by name runs `/bin/busybox --install -s /bin`.

    Raises:
        HostError: there is no static busybox on this machine.
    """
    return initramfs(
        {
            "bin/busybox": busybox(),
            "bin/sh": symlink("busybox"),
            "dev/console": character_device(5, 1),
            "proc": directory(),
            "sys": directory(),
            "init": executable(init.encode()),
            **(entries or {}),
        }
    )


def busybox() -> Node:
    """This machine's static busybox. Raises HostError when there is none."""
    path = Path(find_tool("busybox"))
    program = path.read_bytes()
    if b"/ld-linux" in program:
        raise HostError(f"{path} is not linked statically: apt-get install busybox-static")
    return executable(program)


def _member(inode: int, path: str, node: Node) -> bytes:
    """One archive member: a header of 13 eight-digit hexadecimal fields, the name, the data, each padded to 4 bytes."""
    name = path.encode() + b"\0"
    fields = (inode, node.mode, 0, 0, 1, node.changed, len(node.data), 0, 0, *node.device, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name) + _padded(node.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)

"""Finds and runs the programs that the lab needs; a missing one ends in an error that names its Debian package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from nestvmm.errors import HostError

__all__ = ["dying_with_us", "find_tool", "find_tools", "run_tool"]

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where depmod lives, which a user's PATH leaves out on Debian


# Debian's package of each program.
_PACKAGES: Final[Mapping[str, str]] = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "bochs": "bochs",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpkg": "dpkg",
    "ldd": "libc-bin",
    "modprobe": "kmod",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "zstd": "zstd",
}


def find_tool(name: str) -> str:
    """The path of program `name`, which is one of _PACKAGES.

    Raises:
        HostError: it is not installed; the message names its package.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")
    if path is None:
        raise HostError(f"the lab needs {name}, which is not installed: apt-get install {_PACKAGES[name]}")
    return path


def find_tools(names: Iterable[str]) -> list[str]:
    """The paths of several. Raises as find_tool does, for the first that is missing."""
    return [find_tool(name) for name in names]


def dying_with_us(name: str) -> list[str]:
    """How to start program `name` so that it does not outlive this process, even if that is killed."""
    return [find_tool("setpriv"), "--pdeathsig", "KILL", "--", find_tool(name)]


def run_tool(argv: Sequence[str], *, cwd: Path | None = None, cure: str) -> str:
    """What a program printed on stdout.

    Raises:
        HostError: it failed; the message quotes its last line and ends in `cure`.
    """
    done = subprocess.run(argv, cwd=cwd, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False)
    if done.returncode != 0:
        complaint = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise HostError(f"{Path(argv[0]).name} failed: {complaint}: {cure}")
    return done.stdout

"""Finds and runs the programs that the lab needs; a missing one ends in an error that names its Debian package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nestvmm.errors import HostError

__all__ = ["find_tool", "run_tool"]

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where depmod lives, which a user's PATH leaves out on Debian


def find_tool(name: str, package: str) -> str:
    """The path of program `name`.

    Raises:
        HostError: it is not installed; the message names Debian's `package`.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")
    if path is None:
        raise HostError(f"the lab needs {name}, which is not installed: apt-get install {package}")
    return path


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

"""What is packed for others to install: all that a build needs is in it, on a machine without this checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

from patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent


def test_a_source_distribution_has_all_that_a_build_needs(tmp_path: Path) -> None:
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    tracked = [name for name in listing.stdout.split("\0") if (ROOT / name).is_file()]
    needed = {name for name in tracked if name.startswith(("native/", "nestvmm/")) and not name.endswith(".md")}
    for name in tracked:
        copy = tmp_path / "checkout" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "sdist", "-d", tmp_path],
        cwd=tmp_path / "checkout",
        check=True,
        timeout=PATIENCE,
    )
    (archive,) = tmp_path.glob("nestvmm-*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "native/build_ffi.py", "native/kvm.cdef"} <= names
    assert needed - names == set()

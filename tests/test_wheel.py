"""What a user installs: the wheel alone, in a fresh environment, runs a guest."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from patience import PATIENCE

pytestmark = pytest.mark.kvm

ROOT = Path(__file__).resolve().parents[1]
# What a wheel is made of; what an earlier build left among it is no part of it.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "native", "nestvmm")
LEFT = ("__pycache__", "*.so", "*.bin")

# mov al, 0x21; out 0xe9, al; mov al, 0; out 0xf4, al
GUEST = bytes.fromhex("b0 21 e6 e9 b0 00 e6 f4")


def run(*command: str | Path, cwd: Path) -> str:
    """What it prints; it must succeed. It finds nothing in the environment but the programs."""
    result = subprocess.run(
        command, cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, timeout=PATIENCE, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def test_the_wheel_runs_a_guest_without_the_checkout(tmp_path: Path) -> None:
    source, environment = tmp_path / "source", tmp_path / "environment"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*LEFT))
        else:
            shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    # the packages that it needs are here already; a link to the checkout, which is a .pth file there, does not count
    folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    Path(folder, "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    shutil.rmtree(source)
    assert run(python, "-c", "import nestvmm; print(nestvmm.__file__)", cwd=tmp_path).startswith(folder)
    (tmp_path / "guest.bin").write_bytes(GUEST)
    command = environment / "bin" / "nestvmm"
    assert run(command, "run", "guest.bin", "--address", "0x100000", cwd=tmp_path) == "!"

"""A command imports what it needs and no more: `run` starts quickly, and `--help` needs no extension."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, TOWER, environment, guest
from machine_code import image, leave
from patience import PATIENCE

PROGRAM = """
import sys
from nestvmm.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sorted(sys.modules), sep="\\n", file=sys.stderr)
"""

HEAVY = {
    "rich",
    "elftools",
    "matplotlib",
    "hypothesis",
    "tomllib",
    "asyncio",
    "ctypes",
    "multiprocessing",
    "subprocess",
    "importlib.metadata",
    "nestvmm.lab",
    "nestvmm.bench",
    "nestvmm.trace",
    "nestvmm.engines.host",
    "nestvmm.hypervisors.console",
}


def modules(folder: Path, *arguments: object) -> set[str]:
    command = (sys.executable, "-c", PROGRAM, *map(str, arguments))
    settings = {"cwd": ROOT, "env": environment(str(folder)), "stdin": subprocess.DEVNULL, "timeout": PATIENCE}
    return set(subprocess.run(command, capture_output=True, text=True, check=True, **settings).stderr.splitlines())


@pytest.mark.kvm
def test_run_imports_nothing_heavy(tmp_path: Path) -> None:
    assert modules(tmp_path, *image(tmp_path, leave(0))) & HEAVY == set()


@pytest.mark.kvm
def test_each_thing_is_imported_when_it_is_needed(tmp_path: Path) -> None:
    code = image(tmp_path, leave(0))
    assert modules(tmp_path, "run", guest("hello"), "-a", "walk=1") & HEAVY == {"elftools"}
    assert modules(tmp_path, "run", TOWER) & HEAVY == {"elftools", "tomllib"}
    assert "rich" in modules(tmp_path, *code, "--stats")
    assert modules(tmp_path, *code, "--level", "console") & HEAVY == {"nestvmm.hypervisors.console"}
    assert modules(tmp_path, *code, "--trace", tmp_path / "trace.jsonl") & HEAVY == {"nestvmm.trace"}
    assert modules(tmp_path, *code, "--json", tmp_path / "account.json") & HEAVY == set()


def test_help_needs_no_extension(tmp_path: Path) -> None:
    loaded = modules(tmp_path, "--help")
    assert loaded & HEAVY == set()
    assert not {"nestvmm._native", "nestvmm.kvm", "nestvmm.nesting"} & loaded

"""What tests/conftest.py does with a test whose machine is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("required", "status", "outcome"),
    [
        ("kvm,svm_lab", 0, ": there is none"),
        ("kvm,vmx_lab", 1, "ERROR test_it.py::test_it - Failed: NESTVMM_REQUIRE names vmx_lab, but there is none"),
    ],
)
def test_a_missing_machine_skips_unless_it_is_required(
    tmp_path: Path, required: str, status: int, outcome: str
) -> None:
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.vmx_lab\ndef test_it():\n    pass\n")
    none = 'MACHINES["vmx_lab"] = lambda: "there is none"\n'
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text() + none)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  vmx_lab: as in pyproject.toml\n")
    environment = os.environ | {"NESTVMM_REQUIRE": required, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "COLUMNS": "200"}
    run = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert outcome in done.stdout
    assert done.returncode == status

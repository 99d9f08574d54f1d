"""Cases of a module that all run in one go inside a lab, in one process there; what they found comes back as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from nestvmm.lab import Lab

TESTS = Path(__file__).parent
# Ends what hangs. The longest take a lab five minutes beside two others like it.
TIMEOUT = 900


def run_cases(lab: Lab, script: str, *arguments: str | Path) -> dict[str, Any]:
    """What a script, a path under tests/, prints for these arguments by print_cases.py."""
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "engines", TESTS / "loaders")))
    command = [sys.executable, str(TESTS / script), *map(str, arguments)]
    result = lab.run(command, env={"PYTHONPATH": path}, timeout=TIMEOUT)
    assert result.status == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout)
    broken = {name: case["traceback"] for name, case in found.items() if isinstance(case, dict) and "traceback" in case}
    assert broken == {}
    return found

"""Runs in the SVM lab: hypervisors in machine code at level 1, and their guests; prints what they kept, as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path

from guest_code import HLT, cpuid, done, keep, rax, rdmsr, results, run_in, spec_of, store, wrmsr
from svm_code import *  # noqa: F403
from svm_code import EXIT_CODE, RAX, enable, image, keep_field, make_block, skip, vmrun

from nestvmm.nesting import Tower

MEMORY = 4 << 20


def run(code: bytes, count: int, **options: object) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), code, [], engine="svm", memory=MEMORY, timeout=20)
        with Tower(spec) as tower:
            result = run_in(tower)
            nested = tower.engine.nested.c  # type: ignore[attr-defined]
            return {
                "status": result.status,
                "message": result.message,
                "exits": int(tower.engine.vcpu.exits),
                "kept": results(tower, count),
                "entered": list(nested.entered)[:4],
                "reflected": list(nested.reflected)[:4],
                "served": list(nested.served)[:4],
            }


def first() -> dict[str, object]:
    """Level 2 does CPUID, level 1 answers, level 2 keeps the answer and leaves."""
    code = enable() + make_block() + vmrun()
    code += keep_field(0, EXIT_CODE) + keep_field(1, RAX) + store(0x130000 + RAX, 0x1234) + skip() + vmrun()
    return run(image(code + done(9), cpuid(0x77) + keep(2) + done(3)), 3)


CASES = {"first": first}

if __name__ == "__main__":
    found = {}
    for name, case in CASES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        print(name, file=sys.stderr, flush=True)
        try:
            found[name] = case()
        except Exception:  # noqa: BLE001 - one case must not hide the others
            found[name] = {"error": traceback.format_exc()}
    print(json.dumps(found))

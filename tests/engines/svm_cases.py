"""Runs in the SVM lab: towers under the svm engine; prints what their levels saw and their guests kept, as JSON.

Its argument names the group of cases to run.
"""

from __future__ import annotations

import sys
from functools import partial

import debug_cases
import event_cases
import exception_cases
import mode_cases
import reason_cases
import state_cases
from guest_code import done, keep, load, rax, store
from print_cases import print_cases
from reason_cases import run

from nestvmm._native import lib


def switcher_memory(engine: str) -> dict[str, object]:
    """Maps the switcher's pages at 1 GiB of its own addresses, then reads and writes them."""
    entry = lib.NV_SWITCHER_BASE | 0x87
    find = b"\x0f\x20\xd8\x48\x8b\x00\x48\x25\x00\xf0\xff\xff"  # rax = cr3; rax = its first PDPT
    find += b"\x48\x8b\x40\x08\x48\x25\x00\xf0\xff\xff" + b"\x48\x89\xc7"  # rdi = the PD of the second GiB
    patch = rax(entry) + b"\x48\x89\x07" + b"\x0f\x20\xd8\x0f\x22\xd8"  # its first entry; reload cr3
    code = find + patch + load(0x40000000) + keep(0) + store(0x40002088, 0) + load(0x40002088) + keep(1) + done()
    return run(engine, code, [])


GROUPS = {
    "instructions": {**reason_cases.possible("svm"), **state_cases.CASES, "switcher memory": switcher_memory},
    "events": {**exception_cases.CASES, **event_cases.CASES, **debug_cases.CASES},
    "modes": mode_cases.possible("svm"),
}

if __name__ == "__main__":
    print_cases({name: partial(case, "svm") for name, case in GROUPS[sys.argv[1]].items()})

"""One tower file under both switcher engines: the same output, and the same counts and trace of the same events."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nestvmm.lab import Lab

ROOT = Path(__file__).parents[2]
TOWER = ROOT / "guests" / "reasons" / "tower.toml"

OUTPUT = "100 rounds: cpuid 0x4c32 rdtsc 0x650000000000 rdmsr 0xc800000065 ud2 0x2a, 0 wrong\n"
# reason, qualifier, level: events
COUNTS = {
    ("cpuid", "0x40000100", 3): 101,
    ("exception", "0x6", 3): 101,
    ("rdtsc", "*", 2): 101,
    ("rdmsr", "0x4e560000", 1): 101,
    ("wrmsr", "0x4e560000", 1): 100,
    ("io", "0x80", 0): 100,
    ("io", "0xf4-0xf7", 0): 1,
}


# In the trace, the serial port's OUT and IN aside.
INSTRUCTIONS = {"cpuid": 101, "ud2": 101, "rdtsc": 101, "rdmsr": 101, "wrmsr": 100}


def check(lab: Lab, engine: str) -> None:
    run = f"run {TOWER} --engine {engine} --json account.json --trace trace.json"
    script = f"""
        folder=$(mktemp -d) && trap 'rm -r "$folder"' EXIT && cd "$folder" &&
        "$1" -m nestvmm {run} && cat account.json && "$1" -m nestvmm trace summarize trace.json --json
    """
    result = lab.run(["/bin/sh", "-c", script, "sh", sys.executable], env={"PYTHONPATH": str(ROOT)}, timeout=300)
    assert result.status == 0, (result.stdout + result.stderr).decode()
    output, account_text = result.stdout.decode().split("{", 1)
    assert output.replace("\r", "") == OUTPUT
    account, end = json.JSONDecoder().raw_decode("{" + account_text)
    check_trace(account, json.loads(account_text[end - 1 :]))
    counts = {(row["reason"], row["qualifier"], row["level"]): row["count"] for row in account["rows"]}
    serial = counts.pop(("io", "0x3f8-0x3ff", 0))
    assert serial >= len(OUTPUT)
    assert counts == COUNTS
    assert account["exits"] == sum(COUNTS.values()) + serial
    assert (account["height"], account["engine"]) == (4, engine)


def check_trace(account: dict[str, Any], summary: dict[str, Any]) -> None:
    """Each exit is in it, with the instruction that it was for."""
    sums: dict[tuple[int, str, str], int] = {}
    for row in account["rows"]:
        key = row["level"], row["who"], row["reason"]
        sums[key] = sums.get(key, 0) + row["count"]
    assert {(one["level"], one["who"], one["reason"]): one["count"] for one in summary["groups"]} == sums
    assert summary["events"] == account["exits"]
    found = summary["instructions"]
    assert {name: found.get(name) for name in INSTRUCTIONS} == INSTRUCTIONS
    assert {name.partition(" ")[0] for name in found.keys() - INSTRUCTIONS.keys()} <= {"in", "out"}


@pytest.mark.svm_lab
def test_svm(svm_lab: Lab) -> None:
    check(svm_lab, "svm")


@pytest.mark.vmx_lab
def test_vmx(vmx_lab: Lab) -> None:
    check(vmx_lab, "vmx")

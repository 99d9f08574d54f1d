"""Runs in a lab: members of wild under a switcher engine; prints how each one ended, as JSON.

wild_cases.py IMAGE ENGINE SECONDS MEMBER...       a member may have options: "write-beyond at=0x1000"
"""

from __future__ import annotations

import json
import subprocess
import sys

IMAGE, ENGINE, SECONDS, *MEMBERS = sys.argv[1:]
# What starting the interpreter may take in an emulated machine, in seconds.
SLOW = 60

found = {}
for member in MEMBERS:
    command = [sys.executable, "-m", "nestvmm", "run", IMAGE, "-m", "64", "--engine", ENGINE, "-a", member]
    command += ["--timeout", SECONDS]
    print(member, file=sys.stderr, flush=True)
    ended = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, timeout=float(SECONDS) + SLOW, check=False
    )
    found[member] = {
        "status": ended.returncode,
        "out": ended.stdout.decode(errors="replace")[:2000],
        "err": ended.stderr.decode(errors="replace"),
    }
print(json.dumps(found))

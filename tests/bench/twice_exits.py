"""Runs in a lab: how many exits to Linux's KVM at level 1 there are for one of the guest at level 3.

usage: twice_exits.py GUESTS

Two runs of the same tower, of which one has more exits; prints what the account has more, by mode, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nestvmm.bench import twice
from nestvmm.bench.case import Choice

# A boot has some hundreds of exits more or less than another one.
FEW, MANY = 40, 4000


def level_1_exits(choice: Choice, folder: Path, designate: Sequence[str], count: int) -> int:
    """Of a run in which levels 2 and 3 do so many exits of each kind."""
    initrd, account = folder / "initrd", folder / "account.json"
    initrd.write_bytes(twice._initrd(choice.guests, f"runs=1 count={count}"))
    said = twice._run([*twice._nestvmm(choice, initrd, designate), "--json", str(account)], 600)
    twice.split_levels(said)
    (exits,) = (image["exits"] for image in json.loads(account.read_text())["images"] if image["level"] == 1)
    return int(exits)


choice = Choice(("svm",), Path(sys.argv[1]), 1000.0, icount=True, emulated=True)
found = {}
with tempfile.TemporaryDirectory() as name:
    for mode, designate in twice._DESIGNATIONS.items():
        few, many = (level_1_exits(choice, Path(name), designate, count) for count in (FEW, MANY))
        more = (many - few) / (MANY - FEW) / len(twice.KINDS)
        found[mode] = more - 1  # that of level 2's own exit
print(json.dumps(found))

"""Runs in the VMX lab: CPUID through the switcher beside a bare VMRESUME loop; prints ticks of a round trip as JSON.

They take turns, and of each the median counts. The lab's clock counts instructions.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from statistics import median

from nestvmm.bench.course import Course
from nestvmm.bench.vmx_loop import VmxLoop

TRIPS, BATCHES, WARM_UP = 250, 5, 2
HEIGHTS = (2, 4, 8, 16)

if __name__ == "__main__":
    with ExitStack() as stack:
        courses = {"in C": (2, 0), **{f"in Python, guest at L{height}": (height, height - 1) for height in HEIGHTS}}
        variants = {"bare": stack.enter_context(VmxLoop(TRIPS)).batch}
        for name, (height, handler) in courses.items():
            variants[name] = stack.enter_context(Course(TRIPS, height, handler, engine="vmx")).batch
        rounds = [{name: batch() for name, batch in variants.items()} for _ in range(WARM_UP + BATCHES)][WARM_UP:]
    print(json.dumps({name: median(taken[name] for taken in rounds) for name in variants}))

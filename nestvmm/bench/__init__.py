"""Measures this host: what an exit costs bare, in C, in Python and up a tower, and how soon a guest starts.

course      a guest that does nothing but one instruction, in a tower, and its batches
trips       the courses against each other: batches in turn, ratios taken batch by batch
switch      CPUID through the switcher, against svm_loop, the least that a program does to run a guest by VMRUN
startup     from exec to the guest's first byte, against QEMU
completion  an instruction that L0 completes because KVM cannot emulate it
linux       a stock kernel's boot in the SVM lab, under svm against direct
depth       an exit of the innermost guest by its level, in the SVM lab: flat, and as a cascade
lab         the port read's cost in the SVM lab, where the clock counts instructions
paired      medians and their confidence intervals
row         one line of the result
"""

from nestvmm.bench.completion import measure_completion
from nestvmm.bench.depth import KINDS, Depth, measure_depth
from nestvmm.bench.lab import measure_lab
from nestvmm.bench.linux import measure_linux
from nestvmm.bench.row import Row
from nestvmm.bench.startup import measure_startup
from nestvmm.bench.trips import measure_trips

__all__ = [
    "KINDS",
    "Depth",
    "Row",
    "measure_completion",
    "measure_depth",
    "measure_lab",
    "measure_linux",
    "measure_startup",
    "measure_trips",
]

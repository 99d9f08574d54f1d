"""What an exit costs: bare, in C, in Python, in machine code, up a tower, and under a peer.

    document, row       the result and its lines: the format of `--json`
    goals               what ratios should be at most
    agree               how far two results are apart
    paired              medians and their confidence intervals
    case, catalog       a case gives steps, a step gives rows; all cases
    request, session    what is asked for, and doing it; journal: going on where a run was interrupted
    remote              the same in a lab

The cases:

    trips               round trips of a port read against a bare loop; course: their guest and its towers
    switch              CPUID through the switcher, against bare_loop, the least that a program does to run a guest
                        by VMRUN (svm_loop) or VMRESUME (vmx_loop)
    python_loop         the bare loops in Python
    exits               every kind of exit, measured by the guest (rtt), with hypervisors that answer (answers)
    depth               an exit's cost by the guest's level, flat and as a cascade
    qemu, published     the same guest under QEMU at level 1; what others found
    tracing             what a trace costs, and, from one, the parts of an exit
    completion          an instruction that L0 completes because KVM cannot emulate it
    startup             from exec to the guest's first byte
    twice               above Linux's KVM at level 1, and above that again: flat, as a cascade, and under QEMU
    linux               a stock kernel's boot under svm against direct
"""

from nestvmm.bench.case import RUNS_MIN, Case, Choice, Step
from nestvmm.bench.catalog import CASES
from nestvmm.bench.document import Document, Environment, read_document, versions
from nestvmm.bench.journal import Journal
from nestvmm.bench.remote import conduct_in
from nestvmm.bench.request import ENGINES, Request, conduct
from nestvmm.bench.row import Row

__all__ = [
    "CASES",
    "ENGINES",
    "RUNS_MIN",
    "Case",
    "Choice",
    "Document",
    "Environment",
    "Journal",
    "Request",
    "Row",
    "Step",
    "conduct",
    "conduct_in",
    "read_document",
    "versions",
]

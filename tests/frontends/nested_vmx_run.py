"""What the cases of hypervisors in machine code on VMX by software share."""

from __future__ import annotations

from functools import partial

import vmx_code as vmx
from guest_code import rax, rcx, store
from nested_run import run_on

SECONDARY_ON = vmx.PRIMARY_PLAIN | 1 << 31


run = partial(run_on, "vmx")


def ept_tables(leaf: int) -> bytes:
    """At EPT: level 2's first GiB; the page of 2 MiB at 2 MiB is `leaf`, 4 KiB pages are below."""
    pdpt, directory, pages = vmx.EPT + 0x1000, vmx.EPT + 0x2000, vmx.EPT + 0x3000
    code = (
        store(vmx.EPT, pdpt | 7) + store(pdpt, directory | 7) + store(directory, pages | 7) + store(directory + 8, leaf)
    )
    # mov $pages, %rdi; mov $0x37, %rax; mov $512, %ecx; 1: stosq; add $0x1000, %rax; loop 1b
    return code + vmx.rdi(pages) + rax(0x37) + rcx(512) + b"\x48\xab\x48\x05\x00\x10\x00\x00\xe2\xf6"

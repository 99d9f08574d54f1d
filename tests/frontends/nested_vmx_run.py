"""What the cases of hypervisors in machine code on VMX by software share."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import vmx_code as vmx
from guest_code import rax, rcx, results, run_in, spec_of, store

from nestvmm.nesting import LevelSpec, Tower

MEMORY = 4 << 20
SECONDARY_ON = vmx.PRIMARY_PLAIN | 1 << 31


def run(
    code: bytes, count: int, levels: list[LevelSpec] | None = None, designate: str = "", machine: str = "auto"
) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(Path(folder), code, levels or [], machine=machine, engine="vmx", memory=MEMORY, timeout=60)
        spec = replace(spec, designate=(designate,) if designate else ())
        with Tower(spec) as tower:
            result = run_in(tower)
            nested = tower.engine.nested.c  # type: ignore[attr-defined]
            return {
                "status": result.status,
                "message": result.message,
                "exits": int(tower.engine.vcpu.exits),
                "kept": results(tower, count),
                "seen": [getattr(one, "seen", None) for one in tower.hypervisors],
                "entered": list(nested.entered)[:4],
                "reflected": list(nested.reflected)[:4],
                "served": list(nested.served)[:4],
            }


def ept_tables(leaf: int) -> bytes:
    """At EPT: level 2's first GiB; the page of 2 MiB at 2 MiB is `leaf`, 4 KiB pages are below."""
    pdpt, directory, pages = vmx.EPT + 0x1000, vmx.EPT + 0x2000, vmx.EPT + 0x3000
    code = (
        store(vmx.EPT, pdpt | 7) + store(pdpt, directory | 7) + store(directory, pages | 7) + store(directory + 8, leaf)
    )
    # mov $pages, %rdi; mov $0x37, %rax; mov $512, %ecx; 1: stosq; add $0x1000, %rax; loop 1b
    return code + vmx.rdi(pages) + rax(0x37) + rcx(512) + b"\x48\xab\x48\x05\x00\x10\x00\x00\xe2\xf6"

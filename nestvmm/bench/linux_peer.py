"""Level 2 below a stock Linux: KVM nested in KVM under QEMU, and the same Linux under nestvmm.

Level 1 is Debian's kernel with kvm_amd; a program there (guests/launcher) runs guests/rtt at level 2. Its exits are for
level 1's KVM, or that program. Under QEMU the exit goes to the host's KVM, which enters level 1's; each VMRUN, VMLOAD,
VMSAVE and MSR access there is an exit of its own. Under nestvmm, L0 has the SVM of level 1 in software.

A Linux at level 1 of nestvmm needs a clock that does not run on while L0 works: an emulated machine under icount, or a
processor that has SVM itself.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from nestvmm.bench.case import RUNS, WARM_UP, Choice, Step
from nestvmm.bench.qemu import qemu_command
from nestvmm.bench.row import CASCADE, FLAT, Row, compare
from nestvmm.bench.rtt import guest_figures, image
from nestvmm.errors import HostError
from nestvmm.lab.initramfs import busybox_initramfs, executable, file
from nestvmm.lab.kernel import find_kernel, read_module

__all__ = ["LinuxPeer"]

_INIT: Final = """#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in /modules/*; do $bb insmod $module; done
{commands}
echo all is done
exec $bb reboot -f
"""
_DONE: Final = "all is done"
_COUNT: Final = 20
_MEMORY: Final = "512"
_TIMEOUT: Final = 300.0
# case: rtt's kind, what serves it at level 1
_KINDS: Final = {"cpuid": ("cpuid", "KVM"), "hypercall": ("vmmcall", "KVM"), "port": ("port-in", "launcher")}


@dataclass(frozen=True, slots=True)
class LinuxPeer:
    """The case."""

    name: ClassVar[str] = "peer-linux"
    about: ClassVar[str] = (
        "the same guest at level 2 below a stock Linux, under QEMU and under nestvmm; with --peer qemu"
    )

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One, where both can be."""
        if choice.peer and "svm" in choice.engines and (choice.icount or not choice.emulated):
            yield Step("L2", partial(_measure, choice))


def _measure(choice: Choice) -> list[Row]:
    runs = choice.runs or RUNS
    kernel = str(find_kernel().image)
    # nothing tells a guest without firmware how fast its TSC is, and without that KVM runs no guest
    append = f"console=ttyS0 quiet panic=-1 mitigations=off tsc_early_khz={choice.tsc_mhz * 1000:.0f}"
    with tempfile.TemporaryDirectory(prefix="nestvmm-") as folder:
        initrd = Path(folder) / "initrd.gz"
        initrd.write_bytes(_initrd(choice.guests, runs))
        linux = ("-m", _MEMORY, "-append", append, "-initrd", str(initrd))
        options = ("-cpu", "host", "-serial", "stdio", "-no-reboot")
        theirs = _output(qemu_command(*options, "-kernel", kernel, *linux))
        command = [sys.executable, "-m", "nestvmm", "run", kernel, "-m", _MEMORY, "-a", append, "-i", str(initrd)]
        ours = _output([*command, "--engine", "svm", "--timeout", f"{_TIMEOUT:g}"])
    rows = []
    for case, (kind, handler) in _KINDS.items():
        row = Row(case, level=2, handler=handler, handler_level=1, clock="guest", us_per_unit=choice.us_per_cycle)
        figures = guest_figures(theirs, runs, kind)
        reference = replace(row, what="QEMU, L2, below Linux", system="QEMU", engine="kvm", mode=CASCADE, runs=figures)
        own = replace(
            row, what="nestvmm, L2, below Linux", engine="svm", mode=FLAT, runs=guest_figures(ours, runs, kind)
        )
        rows += [reference, compare(own, reference)]
    return rows


def _initrd(guests: Path, runs: int) -> bytes:
    modules = find_kernel().module_files(["kvm-amd"])
    entries = {f"modules/{number:02}.ko": file(read_module(path)) for number, path in enumerate(modules)}
    entries["launcher"] = executable(image(guests, "launcher").read_bytes())
    entries["rtt"] = file(image(guests, "rtt").read_bytes())
    words = f"count={_COUNT} runs={WARM_UP + runs}"
    commands = "\n".join(f"/launcher /rtt {kind} {words}" for kind, _ in _KINDS.values())
    return busybox_initramfs(_INIT.replace("{commands}", commands), entries)


def _output(command: Sequence[str]) -> str:
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * _TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"Linux below {command[0]} did not end within {2 * _TIMEOUT:g} s") from None
    text = ended.stdout.decode(errors="replace")
    if _DONE not in text:
        said = text[-300:] or ended.stderr.decode(errors="replace")
        raise HostError(f"Linux below {command[0]} ended with status {ended.returncode}: {said!r}")
    return text

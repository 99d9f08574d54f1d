"""Linux's KVM twice: Debian's stock kernel at level 1, the same one at level 2, and a guest of its KVM at level 3.

Both load their own kvm_amd: the one at level 1 on SVM that L0 does by software, the one at level 2 by default too
(flat), or on what the KVM at level 1 makes of SVM (a cascade: `--designate svm-instruction=L1`). At both, a program
(guests/launcher) runs guests/rtt, whose exits are for the kernel's KVM, or for that program.

Flat, reads of DEBUGCTL are L0's, too: that kernel's KVM reads it before each entry, which at level 2 would be an exit
to the KVM at level 1 for each exit of level 3. The cascade is as KVM makes it.

With `--peer qemu` the same runs under QEMU, whose KVM is level 1's hardware, and nests twice itself.

Level 1 needs a clock that does not run on while L0 works: an emulated machine under icount, or a processor that has SVM
itself.

Where the kernels lie and how large their pages are differs from run to run, but not how many exits one exit causes:
the KVM at level 1 flushes its guest's ASID each time that this enters or leaves a guest of its own, and L0 keeps what
it has made of tables that have not changed (native/nested_seen.c). A tick of a kernel's timer, of which each has one in
4 ms, falls into fewer than half of level 3's exits: the median is of those without.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from nestvmm.bench.case import WARM_UP, Choice, Step
from nestvmm.bench.goals import TWICE
from nestvmm.bench.qemu import qemu_command
from nestvmm.bench.row import CASCADE, FLAT, Row, compare
from nestvmm.bench.rtt import image, listed_figures
from nestvmm.errors import HostError
from nestvmm.lab.image import unpack_kernel
from nestvmm.lab.initramfs import Node, archive, busybox, character_device, directory, executable, file, symlink
from nestvmm.lab.kernel import Kernel, find_kernel
from nestvmm.lab.modules import module_nodes

__all__ = ["KINDS", "QEMU", "Twice", "split_levels"]

_QUIET: Final = "quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on"
# An early console polls its port, and /dev/kmsg reaches it; the calls that are left out wait for devices that are not
# there.
_LEVEL_2: Final = (
    "earlycon=uart8250,io,0x3f8 keep_bootcon 8250.nr_uarts=0 printk.time=0 printk.devkmsg=on acpi=off pci=off reboot=k "
    f"noxsave initcall_blacklist=cmos_init,add_rtc_cmos,i8042_init {_QUIET}"
)
_MEMORY_1, _MEMORY_2 = 768, 192
_MARK: Final = "this is level 2's kernel:"
_DONE: Final = "all is done"
_INIT_1: Final = f"""#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in /modules/*; do $bb insmod $module; done
MEASURE
echo "{_MARK}"
/vm_linux /vmlinux /initrd {_MEMORY_2} '{_LEVEL_2}' && echo "{_DONE}"
exec $bb reboot -f
"""
# Messages of level 2 are those of an emergency, or the console would not show them.
_INIT_2: Final = """#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
for module in /modules/*; do $bb insmod $module; done
{
MEASURE
} 2>&1 | while read line; do echo "<0>$line" >/dev/kmsg; done
exec $bb reboot -f
"""
# Seconds that one tower may run, by the clock there: many times what it takes.
_TIMEOUT: Final = 300
# QEMU's stands still at times when level 1 enters level 2's kernel. It takes 12 s, and so many are started at most.
_TIMEOUT_QEMU: Final = 30
_TRIES: Final = 3
# A run is one exit, and into some of level 3's a timer's tick falls: few do not tell which are the common ones.
_RUNS: Final = 60
# Figures in a line: /dev/kmsg takes a thousand letters.
_LINE: Final = 80
#: Of each kind, rtt's word, and what serves it.
KINDS: Final = {"cpuid": ("cpuid", "KVM"), "hypercall": ("vmmcall", "KVM"), "port": ("port-in", "launcher")}
_DESIGNATIONS: Final = {FLAT: ("svm-instruction=L0", "rdmsr:0x1d9=L0"), CASCADE: ("svm-instruction=L1",)}
#: The peer.
QEMU: Final = "QEMU"
_SYSTEMS: Final[dict[str, dict[str, Any]]] = {
    FLAT: {"engine": "svm", "mode": FLAT},
    CASCADE: {"engine": "svm", "mode": CASCADE},
    QEMU: {"system": QEMU, "engine": "kvm", "mode": CASCADE},
}


class StoodStillError(HostError):
    """A tower did not end in time."""


@dataclass(frozen=True, slots=True)
class Twice:
    """The case."""

    name: ClassVar[str] = "twice"
    about: ClassVar[str] = (
        "an exit to Linux's KVM at level 1, and above that again at level 2: "
        "flat (svm-instruction=L0, rdmsr:0x1d9=L0), and as a cascade (svm-instruction=L1)"
    )

    def steps(self, choice: Choice) -> Iterator[Step]:
        """One, where level 1's clock allows it."""
        if "svm" in choice.engines and (choice.icount or not choice.emulated):
            yield Step("L2 and L3", partial(_measure, choice))


def _measure(choice: Choice) -> list[Row]:
    runs = choice.runs or _RUNS
    said: dict[str, Mapping[int, str]] = {}
    tries = 0
    with tempfile.TemporaryDirectory(prefix="nestvmm-") as folder:
        initrd = Path(folder) / "initrd"
        # one exit is a run; a line for each would take longer than they: its letters are exits, too
        lines = -(-(WARM_UP + runs) // _LINE)
        initrd.write_bytes(_initrd(choice.guests, f"runs={lines} count={-(-(WARM_UP + runs) // lines)} list"))
        if choice.peer:
            said[QEMU], tries = _run_qemu(_qemu(choice, initrd))
        for mode, designate in _DESIGNATIONS.items():
            said[mode] = split_levels(_run(_nestvmm(choice, initrd, designate), 2 * _TIMEOUT))
    rows = [row for kind in KINDS for level in (2, 3) for row in _compared(choice, kind, level, runs, said)]
    if tries > 1:
        rows[0] = replace(rows[0], note=f"QEMU stood still, and ran to its end when it was started for time {tries}")
    return rows


def _compared(choice: Choice, kind: str, level: int, runs: int, said: Mapping[str, Mapping[int, str]]) -> Iterator[Row]:
    word, handler = KINDS[kind]
    row = Row(Twice.name, level=level, handler=handler, handler_level=level - 1, clock="guest")
    row = replace(row, us_per_unit=choice.us_per_cycle)
    found = {}
    for system, levels in said.items():
        figures = listed_figures(levels[level], runs, word)
        found[system] = replace(row, what=f"{kind}, L{level}, {system}", runs=figures, **_SYSTEMS[system])
    flat, cascade, qemu = found[FLAT], found[CASCADE], found.get(QEMU)
    if qemu is None:
        yield cascade
    else:
        yield qemu
        yield compare(cascade, qemu)
        yield compare(flat, qemu)
    yield compare(flat, cascade, TWICE.most if level == 3 else None)


def split_levels(text: str) -> Mapping[int, str]:
    """What the guests at levels 2 and 3 printed; raises HostError if the tower did not run to its end."""
    before, mark, after = text.partition(_MARK)
    if not mark or _DONE not in after:
        raise HostError(f"Linux at level {2 if mark else 1} did not run to its end: {text[-1000:]!r}")
    return {2: before, 3: after}


def _append(choice: Choice) -> str:
    # nothing tells a guest without firmware how fast its TSC is, and without that KVM runs no guest
    return f"console=ttyS0 tsc_early_khz={choice.tsc_mhz * 1000:.0f} {_QUIET}"


def _nestvmm(choice: Choice, initrd: Path, designate: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "nestvmm", "run", str(find_kernel().image), "-i", str(initrd)]
    command += ["-a", _append(choice), "-m", f"{_MEMORY_1}M", "--engine", "svm"]
    for one in designate:
        command += ["--designate", one]
    return [*command, "--timeout", str(_TIMEOUT)]


def _qemu(choice: Choice, initrd: Path) -> list[str]:
    options = ("-cpu", "host", "-m", f"{_MEMORY_1}M", "-serial", "stdio", "-no-reboot")
    kernel = ("-kernel", str(find_kernel().image), "-initrd", str(initrd), "-append", _append(choice))
    return qemu_command(*options, *kernel)


def _run_qemu(command: Sequence[str]) -> tuple[Mapping[int, str], int]:
    """What the guests printed, and how often it was started for that."""
    for number in range(1, _TRIES):
        with suppress(StoodStillError):
            return split_levels(_run(command, _TIMEOUT_QEMU)), number
    return split_levels(_run(command, _TIMEOUT_QEMU)), _TRIES


def _run(command: Sequence[str], timeout: float) -> str:
    """What the tower says."""
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise StoodStillError(f"Linux's KVM twice did not end within {timeout:g} s under {command[0]}") from None
    return (ended.stdout + ended.stderr).decode(errors="replace")


def _initrd(guests: Path, words: str) -> bytes:
    """Level 1's; `words` are rtt's. Not packed: unpacking takes an emulated processor longer than copying."""
    measure = "\n".join(f"/launcher /rtt {word} {words}" for word, _ in KINDS.values())
    kernel = find_kernel()
    common = _common(kernel, guests)
    inner = archive({**common, "init": executable(_INIT_2.replace("MEASURE", measure).encode())})
    more = {
        "init": executable(_INIT_1.replace("MEASURE", measure).encode()),
        "initrd": file(inner),
        "vmlinux": file(unpack_kernel(kernel).read_bytes()),
        "vm_linux": executable(image(guests, "vm_linux").read_bytes()),
    }
    return archive({**common, **more})


def _common(kernel: Kernel, guests: Path) -> Mapping[str, Node]:
    """What both levels have."""
    return {
        "bin/busybox": busybox(),
        "bin/sh": symlink("busybox"),
        "dev/console": character_device(5, 1),
        "proc": directory(),
        "launcher": executable(image(guests, "launcher").read_bytes()),
        "rtt": file(image(guests, "rtt").read_bytes()),
        **module_nodes(kernel, ["kvm-amd"], "modules"),
    }

"""Linux KVM twice: Debian's stock kernel at level 1, the same one at level 2, and a guest of its KVM at level 3.

Both load their own kvm_amd: the one at level 1 on SVM that L0 does by software, the one at level 2 by default too
(flat), or on what the KVM at level 1 makes of SVM (a cascade). The guest (guests/vm_maker) measures its exits itself,
in the SVM lab under -icount, where the TSC counts instructions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from nestvmm.bench.depth import KINDS, Depth
from nestvmm.errors import HostError
from nestvmm.lab import SvmLab
from nestvmm.lab.initramfs import (
    Node,
    archive,
    busybox,
    character_device,
    directory,
    executable,
    file,
    symlink,
)
from nestvmm.lab.kernel import Kernel, read_module
from nestvmm.lab.svm import prepare

__all__ = ["measure_twice", "read_figures"]

# Of level 1 and 2. Nothing there tells level 1 how fast its TSC is.
_QUIET: Final = "quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on"
_LEVEL_1: Final = f"console=ttyS0 tsc_early_khz=1000000 {_QUIET}"
# An early console polls its port, and /dev/kmsg reaches it; what is left out waits for devices that are not there.
_LEVEL_2: Final = (
    f"earlycon=uart8250,io,0x3f8 keep_bootcon 8250.nr_uarts=0 acpi=off pci=off reboot=k noxsave {_QUIET} "
    "initcall_blacklist=cmos_init,add_rtc_cmos,i8042_init"
)
_MEMORY_1, _MEMORY_2 = 768, 192
_SAMPLES: Final = 5
_INIT_1: Final = f"""#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in /modules/*; do $bb insmod $module; done
echo "level 2"
/vm_maker {_SAMPLES}
echo "level 3"
/vm_linux /vmlinux /initrd {_MEMORY_2} '{_LEVEL_2}'
echo "status $?"
$bb reboot -f
"""
_INIT_2: Final = f"""#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
for module in /modules/*; do $bb insmod $module; done
/vm_maker {_SAMPLES} 2>&1 | while read line; do echo "<2>$line" >/dev/kmsg; done
$bb reboot -f
"""
# Seconds that a tower may take, and both of them.
_TOWER_LIMIT, _LIMIT = 1000, 2200.0
_RAN: Final = re.compile(r"port 42 37 mmio 1234567 feedbeef cpuid abcd1234 ticks 5\b")
_FIGURE: Final = re.compile(r"rtt (\w+) count \d+ min \d+ median (\d+) cycles")


def measure_twice(guests: Path) -> list[Depth]:
    """Boots the lab and runs the tower there twice, flat and as a cascade; the rows of the guests at levels 2 and 3.

    Raises HostError where the lab or a tower does not run.
    """
    parts = prepare()
    with TemporaryDirectory() as folder, SvmLab(icount=True) as lab:
        initrd = Path(folder, "initrd")
        initrd.write_bytes(_initramfs_1(parts.kernel, parts.unpacked, guests))
        command = [sys.executable, "-c", "from nestvmm.cli import main; main()", "run", str(parts.kernel.image)]
        command += ["-i", str(initrd), "-a", _LEVEL_1, "-m", f"{_MEMORY_1}M", "--engine", "svm"]
        command += ["--timeout", str(_TOWER_LIMIT)]
        found = []
        for designate in ("svm-instruction=L0", "svm-instruction=L1"):
            result = lab.run([*command, "--designate", designate], timeout=_LIMIT)
            found.append(read_figures((result.stdout + result.stderr).decode(errors="replace")))
    flat, cascade = found
    return [Depth(level, kind, flat[level, kind], cascade[level, kind]) for level, kind in flat]


def read_figures(text: str) -> dict[tuple[int, str], int]:
    """The median cycles by level and kind of what the tower printed; raises HostError if it did not get so far."""
    before, mark, after = text.partition("level 3")
    found: dict[tuple[int, str], int] = {}
    for level, said in ((2, before), (3, after)):
        figures = dict(_FIGURE.findall(said))
        if not mark or not _RAN.search(said) or set(figures) != set(KINDS):
            raise HostError(f"the guest at level {level} did not run to its end: {text[-1500:]}")
        found |= {(level, kind): int(figures[kind]) for kind in KINDS}
    if "status 0" not in after:
        raise HostError(f"the kernel at level 2 did not end in order: {text[-1500:]}")
    return found


def _initramfs_1(kernel: Kernel, vmlinux: Path, guests: Path) -> bytes:
    """Not packed: unpacking takes the emulated processor longer than copying."""
    common = _common(kernel, guests)
    inner = archive({**common, "init": executable(_INIT_2.encode())})
    more = {
        "init": executable(_INIT_1.encode()),
        "initrd": file(inner),
        "vmlinux": file(vmlinux.read_bytes()),
        "vm_linux": executable((guests / "vm_linux" / "vm_linux.elf").read_bytes()),
    }
    return archive({**common, **more})


def _common(kernel: Kernel, guests: Path) -> Mapping[str, Node]:
    """What both levels have."""
    modules = {
        f"modules/{number:02}.ko": file(read_module(path))
        for number, path in enumerate(kernel.module_files(["kvm-amd"]))
    }
    return {
        "bin/busybox": busybox(),
        "bin/sh": symlink("busybox"),
        "dev/console": character_device(5, 1),
        "proc": directory(),
        "vm_maker": executable((guests / "vm_maker" / "vm_maker.elf").read_bytes()),
        **modules,
    }

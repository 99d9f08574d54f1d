"""The SVM lab: a machine with AMD's SVM on any host.

QEMU's emulated CPU (TCG, `-cpu max`) has SVM with nested paging. A stock Debian kernel boots there, loads kvm_amd
with nested=1, mounts this machine's / read-only over 9p with a tmpfs on top, and starts an agent that runs commands for
us over a virtio-serial port. Files that commands write vanish with the lab. virtme-ng, which does much of this, is not
used because it runs one command a boot (more need ssh or vhost-vsock on the host), wants an installed kernel's module
tree, and has no answer to a machine that hangs.

The 9p mount caches loosely: a file that changes on this machine after the lab has read it may look stale there. Keep a
lab for one test module or one command, not for a changing tree.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nestvmm.errors import UsageError
from nestvmm.lab.base import say
from nestvmm.lab.emulated import EmulatedLab
from nestvmm.lab.image import build_initrd, unpack_kernel
from nestvmm.lab.kernel import Kernel, find_kernel
from nestvmm.lab.machine import Launch
from nestvmm.lab.tools import dying_with_us, find_tools
from nestvmm.nesting.sizes import parse_size

__all__ = ["SvmLab", "check", "prepare"]

NEEDED = ("qemu-system-x86_64", "setpriv", "busybox", "modprobe")

MEMORY_MIN = 512  # MiB


class SvmLab(EmulatedLab):
    """A lab under QEMU.

    Args:
        icount: one emulator thread and a clock that counts instructions, so that figures repeat.
        memory: RAM, 512M at least: 4G, 512M; a bare number is MiB.
        cpus: virtual CPUs; by default 2, or 1 with icount, where a second one never comes up.
        without: features that the emulated CPU lacks, by QEMU's names, such as popcnt.
        share: a directory of this machine that is writable in the lab at /mnt/share.
        boot_timeout, report: see EmulatedLab.
    """

    NAME = "SVM lab"

    def __init__(
        self,
        *,
        icount: bool = False,
        memory: str = "4G",
        cpus: int | None = None,
        without: Sequence[str] = (),
        share: Path | None = None,
        boot_timeout: float = 120.0,
        report: Callable[[str], None] = say,
    ) -> None:
        super().__init__(boot_timeout, report)
        if icount and cpus not in (None, 1):
            raise UsageError(f"the SVM lab cannot have {cpus} CPUs under icount: leave the number out, or give 1")
        self._icount = icount
        self._mebibytes = parse_size(memory, "--memory") >> 20
        if self._mebibytes < MEMORY_MIN:
            raise UsageError(f"--memory {memory}: the SVM lab needs {MEMORY_MIN}M or more")
        self._cpus = cpus or (1 if icount else 2)
        for feature in without:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", feature):
                raise UsageError(f"{feature!r:.60} is no CPU feature, such as popcnt or sse4.2")
        self._cpu = ",-".join(("max", *without))
        self._share = share

    @property
    def kernel(self) -> Path:
        """The stock kernel's bzImage."""
        return self._parts.kernel.image

    @property
    def initrd(self) -> Path:
        """The lab's own initramfs."""
        return self._parts.initrd

    def _prepare(self) -> None:
        self._parts = prepare()

    @contextmanager
    def _launch(self, console: BinaryIO) -> Iterator[Launch]:
        near, far = socket.socketpair()
        inherited = [far.fileno(), console.fileno()]
        channel = ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={far.fileno()}"]
        channel += ["-device", "virtserialport,chardev=agent,name=nestvmm"]
        with far:
            yield Launch("QEMU", [*self._qemu(console), *channel], inherited, {}, lambda: near)

    def _qemu(self, console: BinaryIO) -> list[str]:
        """QEMU's command line but for the channel, which each boot has anew."""
        kernel_words = [
            "console=ttyS0 quiet panic=-1 mitigations=off transparent_hugepage=always",
            f'NESTVMM_PYTHON="{os.path.realpath(sys.executable)}"',
        ]
        argv = [*dying_with_us("qemu-system-x86_64"), "-no-user-config", "-nodefaults"]
        argv += ["-display", "none", "-serial", f"file:/dev/fd/{console.fileno()}", "-no-reboot"]
        argv += ["-accel", f"tcg,thread={'single' if self._icount else 'multi'}", "-cpu", self._cpu]
        argv += ["-icount", "shift=0"] if self._icount else []
        argv += ["-smp", str(self._cpus), "-m", f"{self._mebibytes}M"]
        argv += ["-virtfs", _plan9(Path("/"), "root", "readonly=on,multidevs=remap")]
        if self._share is not None:
            argv += ["-virtfs", _plan9(self._share.resolve(), "share", "multidevs=remap")]
            kernel_words.append("NESTVMM_SHARE=1")
        argv += ["-kernel", str(self._parts.unpacked), "-initrd", str(self._parts.initrd)]
        argv += ["-append", " ".join(kernel_words)]
        return argv


@dataclass(frozen=True, slots=True)
class Parts:
    """What a boot is made of: the stock kernel, the same unpacked, and the initramfs."""

    kernel: Kernel
    unpacked: Path
    initrd: Path


def check() -> None:
    """Look for what must be installed. Raises HostError, which says which package to install."""
    find_tools(NEEDED)


def prepare() -> Parts:
    """Find, fetch or build everything that a boot needs.

    Raises:
        HostError: something is missing; says which package to install.
    """
    check()  # before anything is fetched
    kernel = find_kernel()
    return Parts(kernel, unpack_kernel(kernel), build_initrd(kernel))


def _plan9(path: Path, tag: str, options: str) -> str:
    """A -virtfs argument; QEMU wants commas in values doubled."""
    return f"local,path={str(path).replace(',', ',,')},mount_tag={tag},security_model=none,{options}"

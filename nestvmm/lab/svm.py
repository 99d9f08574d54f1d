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

import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from nestvmm.errors import UsageError
from nestvmm.lab.base import Lab, say
from nestvmm.lab.image import build_initrd, unpack_kernel
from nestvmm.lab.kernel import Kernel, find_kernel
from nestvmm.lab.session import LabError, Output, Request, Session, SessionLostError
from nestvmm.lab.tools import find_tool

__all__ = ["SvmLab", "prepare"]

NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "busybox": "busybox-static",
    "modprobe": "kmod",
}
SILENCE_LIMIT = 120.0  # seconds without an answer from the agent, under any load seen here
STALLED_SILENCE_LIMIT = 30.0  # the same once the kernel has complained about a stall
STALL = re.compile(rb"rcu:? .*(stall|kthread starved)|soft lockup|hung_task", re.IGNORECASE)
TROUBLE = re.compile(rb"assertion|kernel panic|\bbug:|qemu-system|" + STALL.pattern, re.IGNORECASE)
CONSOLE_TAIL = 1 << 16  # bytes


class SvmLab(Lab):
    """A lab under QEMU; a context manager that boots on entry and leaves nothing behind.

    When the lab dies or hangs, which its emulator does once in a while, it is started again once and says so; a command
    that was running is then run from its start.

    Args:
        icount: one emulator thread and a clock that counts instructions, so that figures repeat.
        memory: RAM as QEMU's -m takes it: 4G, 512M; a bare number is MiB.
        cpus: virtual CPUs; by default 2, or 1 with icount, where a second one never comes up.
        without: features that the emulated CPU lacks, by QEMU's names, such as popcnt.
        share: a directory of this machine that is writable in the lab at /mnt/share.
        boot_timeout: seconds until a lab that does not come up is given up.
        report: takes messages for the user.

    Attributes:
        restarts: how often it was started again: 0 or 1.
        boot_seconds: what the last boot took.
    """

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
        if icount and cpus not in (None, 1):
            raise UsageError(f"the SVM lab cannot have {cpus} CPUs under icount: leave the number out, or give 1")
        self._icount = icount
        self._memory = memory
        self._cpus = cpus or (1 if icount else 2)
        for feature in without:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", feature):
                raise UsageError(f"{feature!r:.60} is no CPU feature, such as popcnt or sse4.2")
        self._cpu = ",-".join(("max", *without))
        self._share = share
        self._boot_timeout = boot_timeout
        self._report = report
        self._machine: _Machine | None = None
        self.restarts = 0
        self.boot_seconds = 0.0

    def __enter__(self) -> Self:
        self._parts = prepare()
        self._command_line = self._qemu()
        try:
            self._boot()
        except SessionLostError as error:
            self._restart(error)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    @property
    def kernel(self) -> Path:
        """The stock kernel's bzImage."""
        return self._parts.kernel.image

    @property
    def initrd(self) -> Path:
        """The lab's own initramfs."""
        return self._parts.initrd

    def _execute(self, request: Request, output: Output, restarted: Callable[[], None]) -> int:
        while True:
            try:
                return self._session().run(request, output)
            except SessionLostError as error:
                if not request.stdin.rewind():
                    self._stop()
                    raise LabError(f"the SVM lab failed ({error}) after {request.argv[0]} had read its input") from None
                self._restart(error)
            restarted()

    def _session(self) -> Session:
        if self._machine is None:
            raise LabError("the SVM lab is not running: it failed twice, or was never entered")
        return self._machine.session

    def _boot(self) -> None:
        start = time.monotonic()
        self._machine = _Machine(self._command_line, self._boot_timeout)
        try:
            self._machine.session.wait_ready()
        except BaseException:
            self._stop()
            raise
        self._machine.silence_limit = SILENCE_LIMIT
        self.boot_seconds = time.monotonic() - start

    def _restart(self, why: SessionLostError) -> None:
        """Boot again after a failure, once in the life of this lab."""
        self._stop()
        if self.restarts:
            raise LabError(f"the SVM lab failed again: {why}: run it on a less loaded machine")
        self.restarts += 1
        self._report(f"the SVM lab failed ({why}); starting it again")
        try:
            self._boot()
        except SessionLostError as error:
            raise LabError(f"the SVM lab failed twice: {why}; then: {error}") from None

    def _stop(self) -> None:
        if self._machine:
            self._machine.stop()
        self._machine = None

    def _qemu(self) -> list[str]:
        """QEMU's command line but for the channel, which each boot has anew."""
        kernel_words = [
            "console=ttyS0 quiet panic=-1 mitigations=off transparent_hugepage=always",
            f'NESTVMM_PYTHON="{os.path.realpath(sys.executable)}"',
        ]
        argv = [_tool("setpriv"), "--pdeathsig", "KILL", "--"]  # no orphan if this process is killed
        argv += [_tool("qemu-system-x86_64"), "-no-user-config", "-nodefaults"]
        argv += ["-display", "none", "-serial", "stdio", "-no-reboot"]
        argv += ["-accel", f"tcg,thread={'single' if self._icount else 'multi'}", "-cpu", self._cpu]
        argv += ["-icount", "shift=0"] if self._icount else []
        argv += ["-smp", str(self._cpus), "-m", self._memory]
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


def prepare() -> Parts:
    """Find, fetch or build everything that a boot needs.

    Raises:
        HostError: something is missing; says which package to install.
    """
    for name in NEEDED:  # before anything is fetched
        _tool(name)
    kernel = find_kernel()
    return Parts(kernel, unpack_kernel(kernel), build_initrd(kernel))


def _tool(name: str) -> str:
    return find_tool(name, NEEDED[name])


def _plan9(path: Path, tag: str, options: str) -> str:
    """A -virtfs argument; QEMU wants commas in values doubled."""
    return f"local,path={str(path).replace(',', ',,')},mount_tag={tag},security_model=none,{options}"


class _Machine:
    """One QEMU process with its console, which is kept in an unnamed file, and the session with its agent."""

    def __init__(self, qemu: list[str], boot_timeout: float) -> None:
        self.silence_limit = boot_timeout
        self._console: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 closed by stop
        near, far = socket.socketpair()
        channel = ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={far.fileno()}"]
        channel += ["-device", "virtserialport,chardev=agent,name=nestvmm"]
        with far:
            self._process = subprocess.Popen(
                [*qemu, *channel],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._console,
                start_new_session=True,  # a Ctrl-C is for this process, which then stops the machine
            )
        self.session = Session(near, self._watch)

    def stop(self) -> None:
        """End it at once: nothing in it is worth keeping."""
        self.session.close()
        self._process.kill()
        self._process.wait()
        self._console.close()

    def _watch(self, silence: float) -> None:
        """Raise SessionLostError when the machine has ended or has been silent for too long."""
        if silence == math.inf:  # the channel closed: QEMU is ending
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                raise SessionLostError("its channel closed") from None
        if self._process.poll() is not None:
            raise SessionLostError(f"QEMU ended with status {self._process.returncode}{self._complaint()}")
        limit = self.silence_limit
        if silence > STALLED_SILENCE_LIMIT and STALL.search(self._console_tail()):
            limit = STALLED_SILENCE_LIMIT
        if silence > limit:
            raise SessionLostError(f"it did not answer for {silence:.0f} s{self._complaint()}")

    def _complaint(self) -> str:
        """What the console or QEMU itself said about it, as the end of a sentence."""
        lines = [line.strip() for line in self._console_tail().splitlines() if line.strip()]
        telling = [line for line in lines if TROUBLE.search(line)] or lines
        return f": {telling[-1].decode(errors='replace')}" if telling else ""

    def _console_tail(self) -> bytes:
        end = os.fstat(self._console.fileno()).st_size
        return os.pread(self._console.fileno(), CONSOLE_TAIL, max(0, end - CONSOLE_TAIL))

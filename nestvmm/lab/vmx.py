"""The VMX lab: a machine with Intel's VMX on any host.

Bochs emulates a Haswell, which has VMX with EPT. A stock Debian kernel boots there and loads kvm_intel with
nested=1. Bochs shares no files with this machine, so the lab takes some along (carry.py): this Python, its packages and
the project. The agent is reached over an emulated serial port.

The machine's clock counts instructions, 50 million a second, which is about what Bochs does here.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nestvmm.errors import HostError
from nestvmm.lab.base import current_directory, say
from nestvmm.lab.boot_disk import write_disk
from nestvmm.lab.carry import Luggage
from nestvmm.lab.emulated import EmulatedLab
from nestvmm.lab.image import unpack_kernel
from nestvmm.lab.kernel import Kernel, find_kernel
from nestvmm.lab.machine import Launch
from nestvmm.lab.tools import dying_with_us, find_tools
from nestvmm.lab.vmx_image import base_initramfs, project_initramfs

__all__ = ["VmxLab", "check", "prepare"]

NEEDED = ("bochs", "setpriv", "busybox", "modprobe", "ldd")
FIRMWARE = {
    Path("/usr/share/bochs/BIOS-bochs-latest"): "bochsbios",
    Path("/usr/share/bochs/VGABIOS-lgpl-latest"): "vgabios",
}
DISPLAYS = "usr/lib/*/bochs/plugins/libbx_term_gui.so"  # the one that neither opens a window nor listens for viewers

# What takes long in an emulator and is of no use there: certificates to check modules against, tracers, BPF.
SKIPPED = (
    "load_system_certificate_list",
    "init_kprobe_trace",
    "init_blk_tracer",
    "trace_eval_init",
    "bpf_rstat_kfunc_init",
    "bpf_prog_test_run_init",
    "bpf_key_sig_kfuncs_init",
    "bpf_tcp_ca_kfunc_init",
    "cubictcp_register",
    "kfunc_init",
)
KERNEL_OPTIONS = (
    "console=ttyS0,115200 quiet mitigations=off nokaslr init_on_alloc=0 rodata=off cryptomgr.notests "
    f"initcall_blacklist={','.join(SKIPPED)}"
)
CONNECT_PAUSE = 0.5  # seconds

BOCHSRC = """\
display_library: term
romimage: file={firmware}
vgaromimage: file={vga_firmware}
megs: {megabytes}
cpu: model=corei7_haswell_4770, count=1, ips=50000000, reset_on_triple_fault=0
ata0-master: type=disk, mode=flat, path={disk}
ata1: enabled=0
boot: disk
com1: enabled=1, mode=file, dev={console}
com2: enabled=1, mode=socket-client, dev=127.0.0.1:{port}
log: -
panic: action=fatal
error: action=ignore
info: action=ignore
clock: sync=none
sound: driver=dummy
speaker: enabled=0
"""


class VmxLab(EmulatedLab):
    """A lab under Bochs.

    Args:
        memory: RAM in MiB.
        project: a directory that it takes along, but for what is hidden or made anew; by default the current one.
        files: files and directories that it takes along as they are.
        boot_timeout, report: see EmulatedLab.
    """

    NAME = "VMX lab"

    def __init__(
        self,
        *,
        memory: int = 1024,
        project: Path | None = None,
        files: Sequence[Path] = (),
        boot_timeout: float = 240.0,
        report: Callable[[str], None] = say,
    ) -> None:
        super().__init__(boot_timeout, report)
        self._memory = memory
        self._project = project
        self._files = files

    @property
    def kernel(self) -> Path:
        """The stock kernel's bzImage."""
        return self._parts.kernel.image

    def _prepare(self) -> None:
        self._parts = prepare()
        project = self._project or current_directory()
        self._project_files, messages = project_initramfs(self._parts.base, project, self._files)
        for message in messages:
            self._report(message)

    @contextmanager
    def _launch(self, console: BinaryIO) -> Iterator[Launch]:
        with ExitStack() as stack:
            disk, config, commands = (
                stack.enter_context(os.fdopen(os.memfd_create(name), "wb")) for name in ("disk", "bochsrc", "commands")
            )
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(CONNECT_PAUSE)
            self._write_disk(disk)
            firmware, vga_firmware = FIRMWARE
            config.write(
                BOCHSRC.format(
                    firmware=firmware,
                    vga_firmware=vga_firmware,
                    megabytes=self._memory,
                    disk=_path(disk),
                    console=_path(console),
                    port=listener.getsockname()[1],
                ).encode()
            )
            commands.write(b"c\n")  # Debian's Bochs has its debugger in, which waits for a command
            config.flush()
            commands.flush()
            argv = [*dying_with_us("bochs"), "-q", "-f", _path(config), "-rc", _path(commands)]
            inherited = [file.fileno() for file in (disk, config, commands, console)]
            yield Launch("Bochs", argv, inherited, {"TERM": "vt100"}, lambda: _accept(listener), spins=True)

    def _write_disk(self, disk: BinaryIO) -> None:
        command_line = f'{KERNEL_OPTIONS} NESTVMM_PYTHON="{os.path.realpath(sys.executable)}"'
        initrd = [self._parts.initramfs.read_bytes(), self._project_files]
        write_disk(disk, self._parts.unpacked, command_line, initrd, self._memory << 20)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a boot is made of, but for the project's files: kernel, the same unpacked, and what rarely changes."""

    kernel: Kernel
    unpacked: Path
    base: Luggage
    initramfs: Path


def check() -> None:
    """Look for what must be installed. Raises HostError, which says which package to install."""
    find_tools(NEEDED)
    for path, package in FIRMWARE.items():
        if not path.exists():
            raise HostError(f"the lab needs {path}, which is not there: apt-get install {package}")
    if not any(Path("/").glob(DISPLAYS)):
        raise HostError("the lab needs Bochs's terminal display, which is not installed: apt-get install bochs-term")


def prepare() -> Parts:
    """Find, fetch or build everything that a boot needs.

    Raises:
        HostError: something is missing; says which package to install.
    """
    check()  # before anything is fetched
    kernel = find_kernel()
    return Parts(kernel, unpack_kernel(kernel), *base_initramfs(kernel))


def _path(file: BinaryIO) -> str:
    """By which an emulator that inherits a descriptor opens its file."""
    return f"/dev/fd/{file.fileno()}"


def _accept(listener: socket.socket) -> socket.socket | None:
    try:
        channel, _ = listener.accept()
    except TimeoutError:
        return None
    channel.settimeout(None)
    return channel

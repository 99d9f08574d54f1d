"""`nestvmm lab`: run a command on a machine that this host is not."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from nestvmm.cli.seconds import seconds

if TYPE_CHECKING:
    from nestvmm.lab.emulated import EmulatedLab

__all__ = ["lab"]

SIGINT_STATUS = 130


@click.group()
def lab() -> None:
    """Run commands on a machine that this host is not."""


@lab.command(
    epilog="""\b
Examples:
  nestvmm lab svm -- uname -a
  nestvmm lab svm -- sh -c 'cat /sys/module/kvm_amd/parameters/nested'
  nestvmm lab svm --icount -- .venv/bin/nestvmm doctor
"""
)
@click.option("--icount", is_flag=True, help="Lets the clock count instructions, so that figures repeat.")
@click.option(
    "-m", "--memory", metavar="SIZE", default="4G", show_default=True, help="RAM, 512M at least; a bare number is MiB."
)
@click.option("--cpus", type=click.IntRange(1, 16), help="Virtual CPUs; 2, or 1 with --icount.")
@click.option("--without", metavar="FEATURE", multiple=True, help="The CPU lacks this, by QEMU's name: popcnt.")
@click.option(
    "--share",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory that is writable in the lab, at /mnt/share.",
)
@click.option("--timeout", metavar="S", type=seconds, help="Seconds that COMMAND may take; by default any number.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def svm(
    *,
    icount: bool,
    memory: str,
    cpus: int | None,
    without: tuple[str, ...],
    share: Path | None,
    timeout: float | None,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND where /dev/kvm has AMD's SVM.

    The machine is emulated by QEMU and sees this host's files; what COMMAND writes vanishes. Its output, input and exit
    status are passed on: 127 not found, 124 timeout, 128 + n ended by signal n.
    """
    from nestvmm.lab import SvmLab  # noqa: PLC0415 keeps the start of other commands quick

    _run(SvmLab(icount=icount, memory=memory, cpus=cpus, without=without, share=share), command, timeout)


@lab.command(
    epilog="""\b
Examples:
  nestvmm lab vmx -- uname -a
  nestvmm lab vmx -- .venv/bin/nestvmm doctor
  nestvmm lab vmx --with /etc/services -- wc -l /etc/services
"""
)
@click.option(
    "-m", "--memory", metavar="MIB", type=click.IntRange(512, 3072), default=1024, show_default=True, help="RAM."
)
@click.option(
    "--with",
    "files",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="A file or directory to take along; may be repeated.",
)
@click.option("--timeout", metavar="S", type=seconds, help="Seconds that COMMAND may take; by default any number.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def vmx(*, memory: int, files: tuple[Path, ...], timeout: float | None, command: tuple[str, ...]) -> None:
    """Run COMMAND where /dev/kvm has Intel's VMX.

    The machine is emulated by Bochs. It has this Python, nestvmm with its packages, pytest, busybox and the current
    directory; what COMMAND writes vanishes. Its output, input and exit status are passed on: 127 not found, 124
    timeout, 128 + n ended by signal n.
    """
    from nestvmm.lab import VmxLab  # noqa: PLC0415 keeps the start of other commands quick

    _run(VmxLab(memory=memory, files=files), command, timeout)


def _run(machine: EmulatedLab, command: tuple[str, ...], timeout: float | None) -> NoReturn:
    stdin: bytes | int = b""
    if sys.stdin is not None and not sys.stdin.closed and not os.isatty(0):
        stdin = 0
    try:
        with machine:
            result = machine.run(command, stdin=stdin, timeout=timeout or math.inf, stream=_write)
    except KeyboardInterrupt:
        sys.exit(SIGINT_STATUS)
    sys.exit(result.status)


def _write(fd: int, data: bytes) -> None:
    """Pass on output at once, past Python's buffers."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

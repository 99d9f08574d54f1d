"""A lab that is this machine: where its KVM already nests, commands need no emulator."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from nestvmm.lab import agent
from nestvmm.lab.base import Lab
from nestvmm.lab.kernel import find_kernel
from nestvmm.lab.session import LabError, Output, Request, Session, SessionLostError

__all__ = ["LocalLab", "kvm_amd_nests", "kvm_intel_nests"]


def kvm_amd_nests() -> bool:
    """Whether /dev/kvm of this machine, SVM lab or AMD host, offers SVM to guests."""
    return _nests("kvm_amd")


def kvm_intel_nests() -> bool:
    """Whether /dev/kvm of this machine, VMX lab or Intel host, offers VMX to guests."""
    return _nests("kvm_intel")


def _nests(module: str) -> bool:
    try:
        nested = Path(f"/sys/module/{module}/parameters/nested").read_text("ascii").strip()
    except OSError:
        return False
    return nested in ("1", "Y") and os.access("/dev/kvm", os.R_OK | os.W_OK)


class LocalLab(Lab):
    """Runs commands here as SvmLab and VmxLab run them on theirs: same statuses, streams, time limits. Files stay."""

    def __enter__(self) -> Self:
        near, far = socket.socketpair()
        with far:
            self._agent = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", agent.__file__, str(far.fileno())],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is for this process, which then kills the command
            )
        self._session = Session(near, lambda silence: None)
        return self

    def __exit__(self, *exception: object) -> None:
        self._session.close()
        self._agent.wait()

    @property
    def kernel(self) -> Path:
        """A stock kernel's bzImage."""
        return find_kernel().image

    def _execute(self, request: Request, output: Output, restarted: Callable[[], None]) -> int:
        try:
            return self._session.run(request, output)
        except SessionLostError as error:
            raise LabError(f"the local lab's agent is lost: {error}") from None

"""Runs in a lab: L0's process loses memory of a tower's while that runs; prints how each ended, as JSON.

usage: lost_memory_cases.py svm|vmx [CASE ...]
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import guest_code as guest
from mixed_memory import AT, PAGE
from mixed_run import PORT, Case, Counting, main, run

from nestvmm._native import ffi
from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result

MARK = b"memory that L0 takes away"
PROT_NONE = 0


class Taking(Counting):
    """Takes what is behind its guest's AT at an access to its port."""

    def access(self, event: Event) -> Result:
        self.guest.write(AT, MARK)
        ram = self.guest._engine.nested.c.ram  # type: ignore[attr-defined]
        size = self.guest._engine.nested.c.ram_size  # type: ignore[attr-defined]
        at = int(ffi.cast("uintptr_t", ram)) + bytes(ffi.buffer(ram, size)).index(MARK)
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(at), PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return HANDLED


class Claiming(Taking):
    """And wants to hear of it."""

    def claims(self) -> Any:
        yield from super().claims()
        yield ExitReason.MEMORY_FAULT, 0, (1 << 64) - 1, None, self.fault

    def fault(self, event: Event) -> Result:
        self.note(event)
        return HANDLED


CODE = guest.out(PORT, 0) + guest.load(AT) + guest.keep(0)

CASES: dict[str, Case] = {
    "below no image": lambda: run([Claiming], CODE),
    "below an image": lambda: run([Claiming, "image"], CODE),
    "above an image": lambda: run(["image", Taking], CODE),
    "above an image that claims": lambda: run(["image", Claiming], CODE),
}


if __name__ == "__main__":
    main(CASES)

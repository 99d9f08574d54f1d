"""Runs in a lab: L0's process loses memory of a tower's while that runs; prints how each ended, as JSON.

usage: lost_memory_cases.py svm|vmx [CASE ...]
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import guest_code as guest
from mixed_memory import AT, OFFSET, PAGE
from mixed_run import PORT, Case, Counting, main, run

from nestvmm._native import ffi
from nestvmm.hypervisors import HANDLED, Event, ExitReason, Result

MARK = b"memory that L0 takes away"
PROT_NONE, PROT_READ_WRITE = 0, 3


class Taking(Counting):
    """Takes what is behind level n's AT at an access to its port."""

    where = AT
    at = 0

    def access(self, event: Event) -> Result:
        self.guest.write(self.where, MARK)
        nested: Any = self.guest._engine.nested.c  # type: ignore[attr-defined]
        offset = bytes(ffi.buffer(nested.ram, nested.ram_size)).index(MARK)
        self.at = int(ffi.cast("uintptr_t", nested.ram)) + offset
        return self.protect(PROT_NONE)

    def protect(self, rights: int) -> Result:
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(self.at), PAGE, rights):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return HANDLED


class Restoring(Taking):
    """Hears of it, and gives it back."""

    def claims(self) -> Any:
        yield from super().claims()
        yield ExitReason.MEMORY_FAULT, 0, (1 << 64) - 1, None, self.fault

    def fault(self, event: Event) -> Result:
        self.note(event)
        return self.protect(PROT_READ_WRITE)


class RestoringBelow(Restoring):
    """The same, with an image between."""

    where = AT + OFFSET


CODE = guest.out(PORT, 0) + guest.load(AT) + guest.keep(0)

CASES: dict[str, Case] = {
    "nobody's": lambda: run([Taking], CODE),
    "nobody's above an image": lambda: run(["image", Taking], CODE),
    "below no image": lambda: run([Restoring], CODE, 1),
    "below an image": lambda: run([RestoringBelow, "image"], CODE, 1),
    "above an image": lambda: run(["image", Restoring], CODE, 1),
    "above two images": lambda: run(["image", "image", Restoring], CODE, 1),
}


if __name__ == "__main__":
    main(CASES)

"""Level n's CPUID as L0 answers it where it exits: native/cpuid_server.c with the exposure's leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.kvm import CpuidEntry

__all__ = ["CpuidServer"]

_FIELDS = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")


class CpuidServer:
    """Answers CPUID in a mailbox's registers.

    fd:    of the KVM vCPU, which has XCR0 and XSS
    regs:  the cffi pointer to level n's registers
    cr4:   the cffi pointer to level n's CR4
    """

    def __init__(self, fd: int, regs: Any, cr4: Any) -> None:
        self._c: Any = ffi.new("struct nv_cpuid *")
        self._c.fd, self._c.regs, self._c.cr4 = fd, regs, cr4
        self.fill([])

    def fill(self, entries: Sequence[CpuidEntry]) -> None:
        """Takes what level n's CPUID reports."""
        self._entries = ffi.new("struct kvm_cpuid_entry2[]", len(entries))
        for c, entry in zip(self._entries, entries, strict=True):
            for name in _FIELDS:
                setattr(c, name, getattr(entry, name))
        self._c.entries, self._c.count = self._entries, len(entries)

    @property
    def server(self) -> Server:
        """What the flat table calls."""
        return Server(ffi.addressof(lib, "nv_cpuid_serve"), self._c)

"""SVM by software: what level n's processor says that it has of it, and what answers for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.engines.engine import MsrRange
from nestvmm.engines.nested import Nested
from nestvmm.engines.svm_intercepts import msr_map
from nestvmm.engines.virtualization import SVM
from nestvmm.kvm import CpuidEntry
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope

__all__ = ["NestedSvm"]

_FEATURES: Final = 0x8000000A
# NP, and whether the processor has them or not: NRIPS, VmcbClean, FlushByAsid, DecodeAssists, PauseFilter,
# PauseFilterThreshold, VmsaveVirt, VGIF (AMD APM vol. 3, E.4.9).
_OFFERED: Final = sum(1 << bit for bit in (0, 3, 5, 6, 7, 10, 12, 15, 16))
_ASIDS: Final = 0x8000


class NestedSvm(Nested):
    """The software SVM of one vCPU; see nestvmm.engines.nested.Nested."""

    tables: ClassVar[int] = lib.NV_SHADOW_NPT

    def _init(self) -> None:
        self.c.take = ffi.addressof(lib, "nv_nested_take")
        lib.nv_nested_init(self.c)

    def _msr_map(self, ranges: Iterable[MsrRange]) -> bytes:
        return msr_map(ranges)

    def server(self, svm: Any) -> tuple[Scope, Server]:
        """What answers SVM's instructions; `svm` is the cffi `struct nv_svm *`."""
        return Scope(ExitReason.SVM_INSTRUCTION), Server(ffi.addressof(lib, "nv_nested_serve"), svm)

    def show(self, entries: Sequence[CpuidEntry]) -> list[CpuidEntry]:
        """Level n's CPUID, with what belongs to SVM if it shows SVM."""
        self.c.visible = SVM.shown(entries)
        if not self.c.visible:
            return list(entries)
        features = CpuidEntry(function=_FEATURES, eax=1, ebx=_ASIDS, edx=_OFFERED)
        return [*(entry for entry in entries if entry.function != _FEATURES), features]

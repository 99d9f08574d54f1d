"""The svm engine: level n runs by VMRUN in the switcher, so that every SVM intercept reaches the designation table.

It needs a KVM that offers its guests SVM (kvm_amd, nested=1). For that KVM the switcher is L1 and our level n its L2.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from nestvmm._native import ffi, lib
from nestvmm.engines.engine import EngineConfig
from nestvmm.engines.switched import SwitchedEngine
from nestvmm.engines.switcher import switcher_sregs
from nestvmm.kvm import CpuidEntry, Segment, Sregs
from nestvmm.x86.exit_reason import REASONS, ExitReason
from nestvmm.x86.svm_exits import svm_codes

__all__ = ["SvmEngine"]

_CPUID_SVM: Final = (0x80000001, 1 << 2)
_CPUID_1G_PAGES: Final = (0x80000001, 1 << 26)
_UD: Final = 6
_EFER_SVME: Final = 1 << 12
_MSR_HSAVE: Final = 0xC0010117

# An exit code is the number of its bit in the intercept vectors; these are from 0x60 on (AMD APM vol. 2, 15.9).
_VECTORS: Final = 0x60
_CODES: Final = {
    reason: svm_codes(reason)
    for reason in (
        ExitReason.CPUID,
        ExitReason.RDTSC,
        ExitReason.RDTSCP,
        ExitReason.RDPMC,
        ExitReason.HLT,
        ExitReason.PAUSE,
        ExitReason.INVD,
        ExitReason.WBINVD,
        ExitReason.MONITOR,
        ExitReason.MWAIT,
        ExitReason.XSETBV,
        ExitReason.HYPERCALL,
        ExitReason.SVM_INSTRUCTION,
        ExitReason.NESTED_PAGE_FAULT,
    )
}
# What level n must never do to the switcher's processor, and the NMI by which L0 recalls it.
_ALWAYS: Final = (ExitReason.NMI, ExitReason.SVM_INSTRUCTION, ExitReason.SHUTDOWN, ExitReason.HYPERCALL)

_SEGMENTS: Final = ("es", "cs", "ss", "ds")
_LIVE_SEGMENTS: Final = ("fs", "gs", "tr", "ldt")


class SvmEngine(SwitchedEngine):
    """Level n under a VMCB of its own; see nestvmm.engines.engine.Engine."""

    name: ClassVar[str] = "svm"
    tables: ClassVar[int] = lib.NV_SHADOW_NPT
    needs: ClassVar[str] = "a KVM that offers its guests SVM: kvm_amd with nested=1"

    @staticmethod
    def offered(entries: list[CpuidEntry]) -> bool:
        """Whether these leaves show SVM."""
        leaf, bit = _CPUID_SVM
        return any(entry.function == leaf and entry.ecx & bit for entry in entries)

    @staticmethod
    def traps(reason: ExitReason, machine: str) -> bool:
        """What direct traps, and the intercepts that this engine sets."""
        return reason in _CODES or (reason is not ExitReason.HLT and "direct" in REASONS[reason].engines)

    def _start_switcher(self, config: EngineConfig) -> Any:
        svm: Any = ffi.new("struct nv_svm *")
        self._block = svm.block = self._switcher.place(lib.NV_SWITCHER_BLOCK, "struct nv_vmcb *")
        self._fill_block(config)
        sregs = switcher_sregs(self._vcpu.get_sregs())
        sregs.efer |= _EFER_SVME
        self._vcpu.set_sregs(sregs)
        self._vcpu.set_msrs({_MSR_HSAVE: lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_HOST_SAVE})
        lib.nv_svm_init(self.vcpu, svm, self._vcpu.fd, self._run, config.level)
        return svm

    def _fill_block(self, config: EngineConfig) -> None:
        block, base = self._block, lib.NV_SWITCHER_BASE
        codes = {code for reason in config.wanted for code in _CODES.get(reason, ())}
        for code in codes.union(*map(svm_codes, _ALWAYS)):
            vector, bit = divmod(code - _VECTORS, 32)
            block.intercept[vector] |= 1 << bit
        block.iopm = base + lib.NV_SWITCHER_IOPM
        block.msrpm = base + lib.NV_SWITCHER_MSRPM
        block.asid = 1
        block.nested_paging = 1
        block.nested_cr3 = lib.NV_SHADOW_TABLES
        block.dr6, block.dr7 = 0xFFFF0FF0, 0x400
        block.guest_pat = 0x0007040600070406

    def _largest_page(self, entries: list[CpuidEntry]) -> int:
        leaf, bit = _CPUID_1G_PAGES
        return 3 if any(entry.function == leaf and entry.edx & bit for entry in entries) else 2

    def _show(self, entries: list[CpuidEntry]) -> None:
        leaf, bit = _CPUID_SVM
        for entry in entries:
            if entry.function == leaf:
                entry.ecx |= bit

    def catch_undefined(self) -> None:
        """Intercepts #UD."""
        self._block.exceptions |= 1 << _UD

    def let_pass(self) -> bool:
        """Lets what an intercept stopped happen after all."""
        if super().let_pass():
            return True
        if not self._c.switched.rung or self.vcpu.event.reason == ExitReason.NESTED_PAGE_FAULT:
            return False
        lib.nv_svm_pass(self._c, ffi.addressof(self.vcpu, "event"))
        return True

    def _inject(self, kind: int, vector: int, error_code: int | None) -> None:
        lib.nv_svm_inject(self._c, kind, vector, error_code is not None, error_code or 0)

    def _block_sregs(self, sregs: Sregs) -> None:
        block = self._block
        for name in _SEGMENTS:
            setattr(sregs, name, _segment_of(getattr(block, name)))
        for mine, theirs in (("gdt", "gdtr"), ("idt", "idtr")):
            table = getattr(sregs, mine)
            table.base, table.limit = getattr(block, theirs).base, getattr(block, theirs).limit
        for name in ("cr0", "cr2", "cr3", "cr4"):
            setattr(sregs, name, getattr(block, name))
        sregs.efer = block.efer & ~_EFER_SVME

    def _set_block_sregs(self, sregs: Sregs) -> None:
        block = self._block
        for name in _SEGMENTS:
            _fill_segment(getattr(block, name), getattr(sregs, name))
        for mine, theirs in (("gdt", "gdtr"), ("idt", "idtr")):
            table = getattr(sregs, mine)
            getattr(block, theirs).base, getattr(block, theirs).limit = table.base, table.limit
        for name in ("cr0", "cr2", "cr3", "cr4"):
            setattr(block, name, getattr(sregs, name))
        block.efer = sregs.efer | _EFER_SVME
        block.cpl = sregs.ss.dpl
        live = self._vcpu.get_sregs()
        for name in _LIVE_SEGMENTS:
            setattr(live, name, getattr(sregs, name))
        live.apic_base = sregs.apic_base
        self._vcpu.set_sregs(live)


def _segment_of(c: Any) -> Segment:
    """The control block's segment; attributes are bits 55:52 and 47:40 of a descriptor (AMD APM vol. 2, 15.5.1)."""
    attributes = c.attributes
    return Segment(
        base=c.base,
        limit=c.limit,
        selector=c.selector,
        type=attributes & 15,
        s=attributes >> 4 & 1,
        dpl=attributes >> 5 & 3,
        present=attributes >> 7 & 1,
        avl=attributes >> 8 & 1,
        l=attributes >> 9 & 1,
        db=attributes >> 10 & 1,
        g=attributes >> 11 & 1,
        unusable=1 - (attributes >> 7 & 1),
    )


def _fill_segment(c: Any, segment: Segment) -> None:
    c.base, c.limit, c.selector = segment.base, segment.limit, segment.selector
    c.attributes = (
        segment.type
        | segment.s << 4
        | segment.dpl << 5
        | segment.present << 7
        | segment.avl << 8
        | segment.l << 9
        | segment.db << 10
        | segment.g << 11
    )

"""The svm engine: level n runs by VMRUN in the switcher, so that every SVM intercept reaches the designation table.

It needs a KVM that offers its guests SVM (kvm_amd, nested=1). For that KVM the switcher is L1 and our level n its L2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Final

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.engines.engine import EngineConfig, MsrRange
from nestvmm.engines.msr_filter import msr_ranges, msr_scopes
from nestvmm.engines.nested_svm import NestedSvm
from nestvmm.engines.segment import attributes_of, segment_of
from nestvmm.engines.svm_intercepts import msr_map, port_map, vectors
from nestvmm.engines.svm_rules import broken_rules, limit
from nestvmm.engines.switched import SwitchedEngine
from nestvmm.engines.switcher import switcher_sregs
from nestvmm.engines.virtualization import SVM, Virtualization
from nestvmm.kvm import CpuidEntry, Segment, Sregs
from nestvmm.x86.control import EFER_SVME
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.exit_row import ExitRow
from nestvmm.x86.scope import Scope
from nestvmm.x86.svm_exits import SVM_EXITS

__all__ = ["SvmEngine"]

_CPUID_1G_PAGES: Final = (0x80000001, 1 << 26)
_CPUID_FEATURES: Final = 0x8000000A
_CPUID_NEXT_RIP: Final = 1 << 3
_CPUID_VIRTUAL_GIF: Final = 1 << 16
# STGI and CLGI, as exits.
_GIF_CODES: Final = (0x84, 0x85)
_MSR_HSAVE: Final = 0xC0010117
_MSR_EFER: Final = 0xC0000080

# What level n must never do to the switcher's processor; L0 answers where no level does.
_ALWAYS: Final = tuple(
    Scope(reason)
    for reason in (
        ExitReason.CPUID,
        ExitReason.RDMSR,
        ExitReason.WRMSR,
        ExitReason.SVM_INSTRUCTION,
        ExitReason.HYPERCALL,
        ExitReason.SHUTDOWN,
        ExitReason.SMI,
        ExitReason.INIT,
    )
)
# EFER; VM_CR to SVM_KEY.
_OWN_MSRS: Final = (MsrRange(_MSR_EFER, _MSR_EFER, True, True), MsrRange(0xC0010114, 0xC0010118, True, True))

# What these claim is no bit of the vectors: NMIs are always intercepted, windows open on request.
_NOT_BY_VECTOR: Final = (ExitReason.IO, ExitReason.INTERRUPT_WINDOW, ExitReason.NMI_WINDOW)

_SEGMENTS: Final = ("es", "cs", "ss", "ds")
_LIVE_SEGMENTS: Final = ("fs", "gs", "tr", "ldt")


class SvmEngine(SwitchedEngine):
    """Level n under a VMCB of its own; see nestvmm.engines.engine.Engine."""

    name: ClassVar[str] = "svm"
    emulates: ClassVar[frozenset[str]] = frozenset({"svm"})
    needs: ClassVar[str] = "a KVM that offers its guests SVM: kvm_amd with nested=1"
    virtualization: ClassVar[Virtualization] = SVM
    exits: ClassVar[Mapping[int, ExitRow]] = SVM_EXITS
    nested_type: ClassVar[type[NestedSvm]] = NestedSvm
    nested: NestedSvm

    def _start_switcher(self, config: EngineConfig) -> Any:
        svm: Any = ffi.new("struct nv_svm *")
        svm.nested = self.nested.c
        svm.nested.nesting = config.nesting
        self._block = svm.block = self._switcher.place(lib.NV_SWITCHER_BLOCK, "struct nv_vmcb *")
        self._cr4 = ffi.addressof(self._block, "cr4")
        features = [entry.edx for entry in self._kvm.get_supported_cpuid() if entry.function == _CPUID_FEATURES]
        svm.saves_next_rip = any(word & _CPUID_NEXT_RIP for word in features)
        self._virtual_gif = any(word & _CPUID_VIRTUAL_GIF for word in features)
        self._fill_block()
        sregs = switcher_sregs(self._vcpu.get_sregs())
        sregs.efer |= EFER_SVME
        self._vcpu.set_sregs(sregs)
        self._vcpu.set_msrs({_MSR_HSAVE: lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_HOST_SAVE})
        lib.nv_svm_init(self.vcpu, svm, self._vcpu.fd, self._run, config.level)
        return svm

    def _fill_block(self) -> None:
        block, base = self._block, lib.NV_SWITCHER_BASE
        block.iopm = base + lib.NV_SWITCHER_IOPM
        block.msrpm = base + lib.NV_SWITCHER_MSRPM
        block.asid = 1
        block.nested_paging = 1
        block.nested_cr3 = lib.NV_SHADOW_TABLES
        block.dr6, block.dr7 = 0xFFFF0FF0, 0x400
        block.guest_pat = 0x0007040600070406

    def _intercept(self, wanted: Sequence[Scope]) -> None:
        ports = [scope for scope in wanted if scope.reason is ExitReason.IO and self._config.io_intercepts]
        others = [scope for scope in wanted if scope.reason not in _NOT_BY_VECTOR]
        for number, word in enumerate(vectors([*_ALWAYS, *others, *ports])):
            self._c.wanted[number] = word
        self._c.looks_ahead = not wanted
        asked = vectors(others)
        self._c.keeps_gif = self._virtual_gif and not any(asked[code // 32] >> code % 32 & 1 for code in _GIF_CODES)
        msrs = [*self._own_msrs(), *msr_ranges(wanted), *self._config.l0_msrs]
        self._set_maps(port_map(ports), msr_map(msrs))

    def _own_msrs(self) -> Sequence[MsrRange]:
        return (*super()._own_msrs(), *_OWN_MSRS)

    def servers(self) -> list[tuple[Scope, Server]]:
        """CPUID, EFER, and SVM's MSRs and instructions."""
        msrs = Server(ffi.addressof(lib, "nv_svm_serve_msr"), self._c)
        return [*super().servers(), *((scope, msrs) for scope in msr_scopes(_OWN_MSRS)), self.nested.server(self._c)]

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        """What level n's CPUID reports."""
        entries = self.nested.show(entries)
        super().set_cpuid(entries)
        limit(ffi.addressof(self._c, "limits"), entries)

    def _largest_page(self, entries: list[CpuidEntry]) -> int:
        leaf, bit = _CPUID_1G_PAGES
        return 3 if any(entry.function == leaf and entry.edx & bit for entry in entries) else 2

    def _hide(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        left = [entry for entry in entries if entry.function != _CPUID_FEATURES]
        SVM.put(left, on=False)
        return left

    def _show(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        features = [entry for entry in self._kvm.get_supported_cpuid() if entry.function == _CPUID_FEATURES]
        own = [copy(entry) for entry in entries if entry.function != _CPUID_FEATURES]
        SVM.put(own, on=True)
        # KVM searches them from the first on, three times at each VMRUN for EFER's features
        return sorted([*own, *features], key=lambda entry: entry.function != SVM.leaf)

    def let_pass(self) -> bool:
        """Lets what an intercept stopped happen after all."""
        due = self.nested.c.due
        if (due.told and not due.withheld) or super().let_pass():
            return True  # an image takes it, whatever the table says
        if not self._c.switched.rung or not self._passes():
            return False
        lib.nv_svm_pass(self._c, ffi.addressof(self.vcpu, "event"))
        return True

    def _passes(self) -> bool:
        """Whether the processor, or KVM, can do what was stopped."""
        reason = self.vcpu.event.reason
        if reason == ExitReason.HLT:
            return self._config.machine == "pc"
        return bool(reason != ExitReason.NESTED_PAGE_FAULT) and not self._carries_msr()

    def get_msr(self, index: int) -> int | None:
        """EFER is the block's; KVM keeps the rest."""
        return self.sregs().efer if index == _MSR_EFER else super().get_msr(index)

    def refusal(self, code: int, information: int) -> str:
        """The rules of VMRUN that the block breaks."""
        rules = broken_rules(ffi.addressof(self._c, "limits"), self._block)
        return f"{'; '.join(rules)} (AMD APM vol. 2, 15.5.1)" if rules else super().refusal(code, information)

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
        sregs.efer = block.efer
        self._hide_sregs(sregs)

    def _hide_sregs(self, sregs: Sregs) -> None:
        sregs.efer &= ~EFER_SVME

    def _set_block_sregs(self, sregs: Sregs) -> None:
        block = self._block
        for name in _SEGMENTS:
            _fill_segment(getattr(block, name), getattr(sregs, name))
        for mine, theirs in (("gdt", "gdtr"), ("idt", "idtr")):
            table = getattr(sregs, mine)
            getattr(block, theirs).base, getattr(block, theirs).limit = table.base, table.limit
        for name in ("cr0", "cr2", "cr3", "cr4"):
            setattr(block, name, getattr(sregs, name))
        block.efer = sregs.efer | EFER_SVME
        block.cpl = sregs.ss.dpl
        live = self._vcpu.get_sregs()
        for name in _LIVE_SEGMENTS:
            setattr(live, name, getattr(sregs, name))
        live.apic_base = sregs.apic_base
        self._vcpu.set_sregs(live)


def _segment_of(c: Any) -> Segment:
    """The control block's segment (AMD APM vol. 2, 15.5.1)."""
    return segment_of(c.selector, c.base, c.limit, c.attributes, 1 - (c.attributes >> 7 & 1))


def _fill_segment(c: Any, segment: Segment) -> None:
    c.base, c.limit, c.selector, c.attributes = segment.base, segment.limit, segment.selector, attributes_of(segment)

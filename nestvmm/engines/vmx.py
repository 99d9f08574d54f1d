"""The vmx engine: level n runs by VMLAUNCH and VMRESUME in the switcher, so that every VMX exit reaches the table.

It needs a KVM that offers its guests VMX (kvm_intel, nested=1). For that KVM the switcher is L1 and our level n its L2.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any, ClassVar, Final

from nestvmm._native import ffi, lib
from nestvmm.engines.engine import EngineConfig
from nestvmm.engines.switched import SwitchedEngine
from nestvmm.engines.switcher import CODE, DATA, TASK, switcher_sregs
from nestvmm.engines.vmx_controls import CAPABILITIES, CONTROL_REASONS, controls_for
from nestvmm.kvm import CpuidEntry, KvmError, Segment, Sregs
from nestvmm.x86.exit_reason import REASONS, ExitReason

__all__ = ["VmxEngine"]

_GP: Final = 13
_CPUID_VMX: Final = (1, 1 << 5)
_CR0_NE: Final = 1 << 5
_CR4_VMXE: Final = 1 << 13
_EFER_LMA: Final = 1 << 10
_MSR_FEATURE_CONTROL: Final = 0x3A
_MSR_VMX_BASIC: Final = 0x480
_LOCKED_VMX: Final = 5  # IA32_FEATURE_CONTROL: locked, VMX outside SMX (Intel SDM vol. 3, 24.7)
_MSR_EPT_VPID: Final = 0x48C
_EPT_2M: Final = 1 << 16
_EPT_1G: Final = 1 << 17
_EPT_POINTER: Final = 0x1E  # write-back tables of four levels (Intel SDM vol. 3, 25.6.11)
_ENTRY_LONG_MODE: Final = 1 << 9

# In the order of the VMCS's fields, which are two apart (Intel SDM vol. 3, appendix B).
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")
_SREGS_FIELDS: Final = (
    *(
        field + 2 * number
        for number in range(len(_SEGMENTS))
        for field in (
            lib.NV_VMCS_GUEST_ES,
            lib.NV_VMCS_GUEST_ES_BASE,
            lib.NV_VMCS_GUEST_ES_LIMIT,
            lib.NV_VMCS_GUEST_ES_RIGHTS,
        )
    ),
    *(lib.NV_VMCS_GUEST_GDTR_BASE, lib.NV_VMCS_GUEST_GDTR_LIMIT),
    *(lib.NV_VMCS_GUEST_IDTR_BASE, lib.NV_VMCS_GUEST_IDTR_LIMIT),
    *(lib.NV_VMCS_GUEST_CR0, lib.NV_VMCS_CR0_SHADOW, lib.NV_VMCS_GUEST_CR3),
    *(lib.NV_VMCS_GUEST_CR4, lib.NV_VMCS_CR4_SHADOW, lib.NV_VMCS_GUEST_EFER),
)
_LIVE: Final = ("cr2", "cr8", "apic_base")
# MSRs of level n's that the VMCS has while it is outside.
_MSRS: Final = {
    0x174: lib.NV_VMCS_GUEST_SYSENTER_CS,
    0x175: lib.NV_VMCS_GUEST_SYSENTER_ESP,
    0x176: lib.NV_VMCS_GUEST_SYSENTER_EIP,
    0x1D9: lib.NV_VMCS_GUEST_DEBUGCTL,
    0xC0000080: lib.NV_VMCS_GUEST_EFER,
    0xC0000100: lib.NV_VMCS_GUEST_FS_BASE,
    0xC0000101: lib.NV_VMCS_GUEST_GS_BASE,
}


class VmxEngine(SwitchedEngine):
    """Level n under a VMCS of its own; see nestvmm.engines.engine.Engine."""

    name: ClassVar[str] = "vmx"
    tables: ClassVar[int] = lib.NV_SHADOW_EPT
    needs: ClassVar[str] = "a KVM that offers its guests VMX: kvm_intel with nested=1"

    @staticmethod
    def offered(entries: list[CpuidEntry]) -> bool:
        """Whether these leaves show VMX."""
        leaf, bit = _CPUID_VMX
        return any(entry.function == leaf and entry.ecx & bit for entry in entries)

    @staticmethod
    def traps(reason: ExitReason, machine: str) -> bool:
        """What direct traps, and the exits that this engine asks for."""
        return reason in CONTROL_REASONS or (reason is not ExitReason.HLT and "direct" in REASONS[reason].engines)

    def _start_switcher(self, config: EngineConfig) -> Any:
        base = lib.NV_SWITCHER_BASE
        vmx: Any = ffi.new("struct nv_vmx *")
        self._c = vmx
        vmx.block = self._switcher.place(lib.NV_SWITCHER_BLOCK, "struct nv_vmx_block *")
        initial = self._vcpu.get_sregs()
        sregs = switcher_sregs(self._vcpu.get_sregs())
        sregs.cr4 |= _CR4_VMXE
        sregs.tr = Segment(base + lib.NV_SWITCHER_TSS, 0x67, TASK, type=11, present=1)
        self._vcpu.set_msrs({_MSR_FEATURE_CONTROL: _LOCKED_VMX})
        self._vcpu.set_sregs(sregs)
        # no NMI until level n runs: the switcher's RFLAGS.IF keeps interrupts out, this NMIs
        events = self._vcpu.get_events()
        events.nmi.masked = 1
        self._vcpu.set_events(events)
        lib.nv_vmx_init(self.vcpu, vmx, self._vcpu.fd, self._run, config.level)
        self._fill_block(config, vmx, sregs)
        vmx.halts = config.machine == "pc"
        self._set_block_sregs(initial)
        return vmx

    def _fill_block(self, config: EngineConfig, vmx: Any, sregs: Sregs) -> None:
        base = lib.NV_SWITCHER_BASE
        revision = self._vcpu.get_msrs([_MSR_VMX_BASIC])[_MSR_VMX_BASIC] & 0x7FFFFFFF
        for name, place in (("vmxon", lib.NV_SWITCHER_VMXON), ("vmcs", lib.NV_SWITCHER_VMCS)):
            setattr(vmx.block, name, base + place)
            self._switcher.place(place, "uint32_t *")[0] = revision
        controls = controls_for(config.wanted, self._vcpu.get_msrs(CAPABILITIES))
        vmx.primary = controls[lib.NV_VMCS_PRIMARY_CONTROLS]
        vmx.secondary = controls[lib.NV_VMCS_SECONDARY_CONTROLS]
        vmx.cr0_mask, vmx.cr4_mask = _CR0_NE, _CR4_VMXE
        self._entry_controls = controls[lib.NV_VMCS_ENTRY_CONTROLS]
        fields = {
            **controls,
            lib.NV_VMCS_MSR_BITMAP: base + lib.NV_SWITCHER_MSRPM,
            lib.NV_VMCS_EPT_POINTER: lib.NV_SHADOW_TABLES | _EPT_POINTER,
            lib.NV_VMCS_LINK_POINTER: (1 << 64) - 1,
            lib.NV_VMCS_CR0_MASK: vmx.cr0_mask,
            lib.NV_VMCS_CR4_MASK: vmx.cr4_mask,
            lib.NV_VMCS_GUEST_DR7: 0x400,
            lib.NV_VMCS_HOST_CS: CODE,
            lib.NV_VMCS_HOST_SS: DATA,
            lib.NV_VMCS_HOST_DS: DATA,
            lib.NV_VMCS_HOST_ES: DATA,
            lib.NV_VMCS_HOST_TR: TASK,
            lib.NV_VMCS_HOST_EFER: sregs.efer,
            lib.NV_VMCS_HOST_CR0: sregs.cr0,
            lib.NV_VMCS_HOST_CR3: sregs.cr3,
            lib.NV_VMCS_HOST_CR4: sregs.cr4,
            lib.NV_VMCS_HOST_TR_BASE: sregs.tr.base,
            lib.NV_VMCS_HOST_GDTR_BASE: sregs.gdt.base,
            lib.NV_VMCS_HOST_IDTR_BASE: sregs.idt.base,
            lib.NV_VMCS_HOST_RSP: base + lib.NV_SWITCHER_MAILBOX,
            lib.NV_VMCS_HOST_RIP: base + lib.NV_SWITCHER_VMX_EXIT,
        }
        for encoding, value in fields.items():
            lib.nv_vmx_put(vmx, encoding, value)

    def _largest_page(self, entries: list[CpuidEntry]) -> int:
        capabilities = self.feature_msrs().get(_MSR_EPT_VPID, 0)
        return 3 if capabilities & _EPT_1G else 2 if capabilities & _EPT_2M else 1

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        """What level n's CPUID reports."""
        self._level_cpuid = [copy(entry) for entry in entries]
        super().set_cpuid(entries)

    def _show(self, entries: list[CpuidEntry]) -> None:
        leaf, bit = _CPUID_VMX
        for entry in entries:
            if entry.function == leaf:
                entry.ecx |= bit

    def let_pass(self) -> bool:
        """Lets the processor execute the instruction that a control stopped."""
        if not self._c.switched.rung:
            return False
        if self.vcpu.event.reason == ExitReason.CPUID:
            self._answer_cpuid()
            return True
        if self.vcpu.event.reason == ExitReason.XSETBV:
            self._set_xcr()
            return True
        passed = lib.nv_vmx_pass(self.vcpu)
        self._check(min(passed, 0))
        return bool(passed)

    def _answer_cpuid(self) -> None:
        regs = self.regs()
        leaf, subleaf = regs.rax & 0xFFFFFFFF, regs.rcx & 0xFFFFFFFF
        found = [e for e in self._level_cpuid if e.function == leaf and (not e.flags & 1 or e.index == subleaf)]
        entry = found[0] if found else CpuidEntry(leaf)
        regs.rax, regs.rbx, regs.rcx, regs.rdx = entry.eax, entry.ebx, entry.ecx, entry.edx
        if leaf == 1:
            (cr4,) = self._exchange([lib.NV_VMCS_GUEST_CR4])
            regs.rcx = regs.rcx & ~(1 << 27) | (cr4 >> 18 & 1) << 27
        self.set_regs(regs)

    def _set_xcr(self) -> None:
        regs = self.regs()
        value = (regs.rdx & 0xFFFFFFFF) << 32 | regs.rax & 0xFFFFFFFF
        try:
            if not regs.rcx & 0xFFFFFFFF:
                self._vcpu.set_xcrs({0: value})
                return
        except KvmError:
            pass
        self.vcpu.event.advance = 0
        self.exception(_GP, 0)

    def _inject(self, kind: int, vector: int, error_code: int | None) -> None:
        self._check(lib.nv_vmx_inject(self.vcpu, kind, vector, error_code or 0))

    def _exchange(self, encodings: Iterable[int] = ()) -> list[int]:
        """Reads fields of the VMCS, after the writes that wait."""
        fields = ffi.new("struct nv_vmx_field[]", [(encoding, 0) for encoding in encodings])
        result = lib.nv_vmx_exchange(self.vcpu, fields, len(fields))
        self._check_switcher()
        self._check(result)
        return [field.value for field in fields]

    def get_msr(self, index: int) -> int | None:
        """KVM's value of an MSR, or the VMCS's."""
        if index in _MSRS and self._outside():
            return self._exchange([_MSRS[index]])[0]
        return super().get_msr(index)

    def _block_sregs(self, sregs: Sregs) -> None:
        got = self._exchange(_SREGS_FIELDS)
        for number, name in enumerate(_SEGMENTS):
            setattr(sregs, name, _segment_of(*got[4 * number : 4 * number + 4]))
        for number, table in enumerate((sregs.gdt, sregs.idt), start=2 * len(_SEGMENTS)):
            table.base, table.limit = got[2 * number : 2 * number + 2]
        cr0, cr0_shadow, sregs.cr3, cr4, _, sregs.efer = got[-6:]
        sregs.cr0 = cr0 & ~_CR0_NE | cr0_shadow & _CR0_NE
        sregs.cr4 = cr4 & ~_CR4_VMXE

    def _set_block_sregs(self, sregs: Sregs) -> None:
        values: list[int] = []
        for name in _SEGMENTS:
            values += _fields_of(getattr(sregs, name))
        for table in (sregs.gdt, sregs.idt):
            values += table.base, table.limit
        values += sregs.cr0 | _CR0_NE, sregs.cr0, sregs.cr3, sregs.cr4 | _CR4_VMXE, sregs.cr4, sregs.efer
        for encoding, value in zip(_SREGS_FIELDS, values, strict=True):
            lib.nv_vmx_put(self._c, encoding, value)
        long_mode = _ENTRY_LONG_MODE if sregs.efer & _EFER_LMA else 0
        lib.nv_vmx_put(self._c, lib.NV_VMCS_ENTRY_CONTROLS, self._entry_controls | long_mode)
        live = self._vcpu.get_sregs()
        if any(getattr(live, name) != getattr(sregs, name) for name in _LIVE):
            for name in _LIVE:
                setattr(live, name, getattr(sregs, name))
            self._vcpu.set_sregs(live)


def _segment_of(selector: int, base: int, limit: int, rights: int) -> Segment:
    """A segment's fields in the VMCS; access rights: Intel SDM vol. 3, 25.4.1."""
    return Segment(
        base=base,
        limit=limit,
        selector=selector,
        type=rights & 15,
        s=rights >> 4 & 1,
        dpl=rights >> 5 & 3,
        present=rights >> 7 & 1,
        avl=rights >> 12 & 1,
        l=rights >> 13 & 1,
        db=rights >> 14 & 1,
        g=rights >> 15 & 1,
        unusable=rights >> 16 & 1,
    )


def _fields_of(segment: Segment) -> tuple[int, int, int, int]:
    """Selector, base, limit and access rights."""
    rights = (
        segment.type
        | segment.s << 4
        | segment.dpl << 5
        | segment.present << 7
        | segment.avl << 12
        | segment.l << 13
        | segment.db << 14
        | segment.g << 15
        | segment.unusable << 16
    )
    return segment.selector, segment.base, segment.limit, rights

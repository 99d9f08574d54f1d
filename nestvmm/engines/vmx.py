"""The vmx engine: level n runs by VMLAUNCH and VMRESUME in the switcher, so that every VMX exit reaches the table.

It needs a KVM that offers its guests VMX (kvm_intel, nested=1). For that KVM the switcher is L1 and our level n its L2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Final

from nestvmm._native import ffi, lib
from nestvmm.devices import Server
from nestvmm.engines.engine import EngineConfig, MsrRange
from nestvmm.engines.guest_paging import PageFaultError, UnbackedError, physical_bits
from nestvmm.engines.msr_filter import msr_ranges, msr_scopes
from nestvmm.engines.nested_vmx import NestedVmx
from nestvmm.engines.register_bits import cr4_bits, efer_bits
from nestvmm.engines.segment import attributes_of, segment_of
from nestvmm.engines.switched import SwitchedEngine
from nestvmm.engines.switcher import CODE, DATA, TASK, switcher_sregs
from nestvmm.engines.task_switch import FaultError, Source, TaskSwitch
from nestvmm.engines.trial import Trial
from nestvmm.engines.virtualization import VMX, Virtualization
from nestvmm.engines.vmx_intercepts import (
    CAPABILITIES,
    controls,
    exceptions,
    msr_bitmap,
    port_bitmaps,
    writes_exit,
)
from nestvmm.engines.vmx_rules import Limits, broken_rules
from nestvmm.errors import HostError
from nestvmm.kvm import CpuidEntry, Segment, Sregs
from nestvmm.x86.control import CR0_NE, CR0_PG, CR4_PAE, CR4_VMXE, EFER_LMA
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.exit_row import ExitRow
from nestvmm.x86.scope import Scope
from nestvmm.x86.vmx_exits import VMX_EXITS
from nestvmm.x86.vmx_failures import vmx_failure

__all__ = ["VmxEngine"]

_ALL: Final = (1 << 64) - 1
_NMI: Final = 2
_MSR_FEATURE_CONTROL: Final = 0x3A
_MSR_VMX_BASIC: Final = 0x480
_LOCKED_VMX: Final = 5  # IA32_FEATURE_CONTROL: locked, VMX outside SMX (Intel SDM vol. 3, 24.7)
_MSR_VMX_MISC: Final = 0x485
_MSR_PIN: Final = 0x48D
_PIN_TIMER: Final = 1 << 6
_MSR_VMX_TRUE_ENTRY: Final = 0x490
_MSR_EPT_VPID: Final = 0x48C
_EPT_2M: Final = 1 << 16
_EPT_1G: Final = 1 << 17
_ENTRY_LONG_MODE: Final = 1 << 9
_DB: Final = 1
_PF: Final = 14
_DR6_BT: Final = 1 << 15
_DR7_LOCAL: Final = 0x155  # what a task switch turns off
_SHADOWS: Final = 3  # of the interruptibility (Intel SDM vol. 3, table 25-3): by STI and MOV SS
_NMI_MASKED: Final = 8
_ERROR_CODE: Final = 1 << 11
_VECTORING: Final = (
    *(lib.NV_VMCS_IDT_VECTORING, lib.NV_VMCS_IDT_VECTORING_ERROR_CODE),
    *(lib.NV_VMCS_GUEST_INTERRUPTIBILITY, lib.NV_VMCS_GUEST_DR7),
)
_GUEST_STATE: Final = 33  # the basic exit reason of an entry that failed for it

# FEATURE_CONTROL and VMX's capabilities, which a processor without VMX does not have.
_OWN_MSRS: Final = (MsrRange(0x3A, 0x3A, True, True), MsrRange(0x480, 0x493, True, True))

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
    emulates: ClassVar[frozenset[str]] = frozenset({"vmx"})
    needs: ClassVar[str] = "a KVM that offers its guests VMX: kvm_intel with nested=1"
    virtualization: ClassVar[Virtualization] = VMX
    exits: ClassVar[Mapping[int, ExitRow]] = VMX_EXITS
    nested_type: ClassVar[type[NestedVmx]] = NestedVmx
    nested: NestedVmx

    def _start_switcher(self, config: EngineConfig) -> Any:
        base = lib.NV_SWITCHER_BASE
        vmx: Any = ffi.new("struct nv_vmx *")
        vmx.nested = self.nested.c
        vmx.nested.nesting = config.nesting
        self._c = vmx
        self._cr4 = ffi.addressof(vmx, "cr4")
        vmx.block = self._switcher.place(lib.NV_SWITCHER_BLOCK, "struct nv_vmx_block *")
        self._switcher.set_gate(_NMI, lib.NV_SWITCHER_VMX_NMI)
        vmx.halts = config.machine == "pc"
        initial = self._vcpu.get_sregs()
        sregs = switcher_sregs(self._vcpu.get_sregs())
        sregs.cr4 |= CR4_VMXE
        sregs.tr = Segment(base + lib.NV_SWITCHER_TSS, 0x67, TASK, type=11, present=1)
        self._vcpu.set_msrs({_MSR_FEATURE_CONTROL: _LOCKED_VMX})
        self._vcpu.set_sregs(sregs)
        lib.nv_vmx_init(self.vcpu, vmx, self._vcpu.fd, self._run, config.level)
        self._fill_block(vmx, sregs)
        self._set_block_sregs(initial)
        return vmx

    def _fill_block(self, vmx: Any, sregs: Sregs) -> None:
        base = lib.NV_SWITCHER_BASE
        revision = self._vcpu.get_msrs([_MSR_VMX_BASIC])[_MSR_VMX_BASIC] & 0x7FFFFFFF
        for name, place in (("vmxon", lib.NV_SWITCHER_VMXON), ("vmcs", lib.NV_SWITCHER_VMCS)):
            setattr(vmx.block, name, base + place)
            self._switcher.place(place, "uint32_t *")[0] = revision
        vmx.memory, vmx.probe = (
            self._switcher.place(place, "uint8_t *") for place in (lib.NV_SWITCHER_VMCS, lib.NV_SWITCHER_PROBE)
        )
        self._switcher.place(lib.NV_SWITCHER_PROBE, "uint32_t *")[0] = revision
        found = controls((), self._vcpu.get_msrs(CAPABILITIES))
        vmx.entry_controls = found.entry
        fields = {
            lib.NV_VMCS_LINK_POINTER: (1 << 64) - 1,
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

    def _intercept(self, wanted: Sequence[Scope]) -> None:
        ports = [scope for scope in wanted if scope.reason is ExitReason.IO and self._config.io_intercepts]
        others = [scope for scope in wanted if scope.reason is not ExitReason.IO]
        found = controls([*others, *ports], self._vcpu.get_msrs(CAPABILITIES))
        block = self._c.wanted
        block.pin, block.primary, block.secondary, block.exit = found[:4]
        block.exceptions = exceptions(wanted)
        block.cr0_mask = _ALL if writes_exit(wanted, 0) else CR0_NE
        block.cr4_mask = _ALL if writes_exit(wanted, 4) else CR4_VMXE
        block.msr_bitmap = lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_MSRPM
        block.ports_a = lib.NV_SWITCHER_BASE + lib.NV_SWITCHER_IOPM
        block.ports_b = block.ports_a + 0x1000
        block.ept_pointer = lib.NV_SHADOW_TABLES | lib.NV_VMX_EPT_POINTER
        self._c.nmi_wanted = any(scope.reason is ExitReason.NMI for scope in wanted)
        msrs = [*self._own_msrs(), *msr_ranges(wanted), *self._config.l0_msrs]
        self._set_maps(port_bitmaps(ports), msr_bitmap(msrs))

    def _own_msrs(self) -> Sequence[MsrRange]:
        return (*super()._own_msrs(), *_OWN_MSRS)

    def servers(self) -> list[tuple[Scope, Server]]:
        """CPUID, and VMX's MSRs and instructions."""
        msrs = Server(ffi.addressof(lib, "nv_vmx_serve_msr"), self._c)
        return [*super().servers(), *((scope, msrs) for scope in msr_scopes(_OWN_MSRS)), *self.nested.servers(self._c)]

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        """What level n's CPUID reports."""
        entries = self.nested.show(entries)
        super().set_cpuid(entries)
        own = self._vcpu.get_msrs(range(_MSR_VMX_BASIC, _MSR_VMX_TRUE_ENTRY + 1))
        self.nested.limit(own, bool(self._c.halts), entries)
        # KVM withdraws the controls of instructions that CPUID does not show
        self._intercept(self._wanted)

    def try_instructions(self, codes: Sequence[bytes], entries: Sequence[CpuidEntry]) -> list[tuple[Trial, Trial]]:
        """What runs may be KVM's work, of an instruction that the processor lacks: not in a nested guest.

        Seen with RDPID on Bochs's Haswell. Where the processor has it, no #UD comes.
        """

        def sure(outcome: Trial) -> Trial:
            return Trial.HANDED_OVER if outcome is Trial.RUNS else outcome

        return [(sure(first), sure(last)) for first, last in super().try_instructions(codes, entries)]

    def _largest_page(self, entries: list[CpuidEntry]) -> int:
        capabilities = self.feature_msrs().get(_MSR_EPT_VPID, 0)
        return 3 if capabilities & _EPT_1G else 2 if capabilities & _EPT_2M else 1

    def _hide(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        VMX.put(entries, on=False)
        return entries

    def _show(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        shown = [copy(entry) for entry in entries]
        VMX.put(shown, on=True)
        return shown

    def let_pass(self) -> bool:
        """Lets the processor execute the instruction that a control stopped."""
        if not self._c.switched.rung:
            return False
        if super().let_pass():
            return True
        if self._carries_msr():
            return False
        if self.vcpu.event.reason == ExitReason.TASK_SWITCH:
            return self._switch_tasks()
        passed = lib.nv_vmx_pass(self.vcpu)
        self._check(min(passed, 0))
        return bool(passed)

    def _switch_tasks(self) -> bool:
        """Does what the processor leaves to its hypervisor; False: level n has no memory for it."""
        vectoring, error_code, blocked, dr7 = self._exchange(_VECTORING)
        source = Source(self.vcpu.event.info >> 30 & 3)
        kind = vectoring >> 8 & 7 if source is Source.GATE and vectoring >> 31 & 1 else None
        regs = self.regs()
        switch = TaskSwitch(
            self.paging,
            regs,
            self.sregs(),
            selector=self.vcpu.event.info & 0xFFFF,
            source=source,
            next_rip=regs.rip + self.vcpu.event.length,
            error_code=error_code if kind is not None and vectoring & _ERROR_CODE else None,
        )
        fault: tuple[int, int | None] | None = None
        try:
            switch.leave()
            switch.enter()
        except FaultError as error:
            fault = error.vector, error.error_code
        except PageFaultError as error:
            switch.sregs.cr2, fault = error.address, (_PF, error.error_code)
        except UnbackedError:
            return False
        self.set_regs(switch.regs)
        self.set_sregs(switch.sregs)
        if switch.left:
            blocked &= ~(_SHADOWS | (_NMI_MASKED if source is Source.IRET else 0))
            self._c.interruptibility = blocked | (_NMI_MASKED if kind == lib.NV_EVENT_NMI else 0)
            lib.nv_vmx_put(self._c, lib.NV_VMCS_GUEST_INTERRUPTIBILITY, self._c.interruptibility)
            lib.nv_vmx_put(self._c, lib.NV_VMCS_GUEST_ACTIVITY, 0)
            lib.nv_vmx_put(self._c, lib.NV_VMCS_GUEST_DR7, dr7 & ~_DR7_LOCAL)
        if switch.traps and not fault:
            registers = self._vcpu.get_debug_regs()
            registers.dr6 |= _DR6_BT
            self._vcpu.set_debug_regs(registers)
            fault = _DB, None
        if fault:
            self.exception(*fault)
        return True

    def _check(self, status: int) -> None:
        if self._c.overflowed:
            raise HostError(
                f"L0 writes more than {lib.NV_VMX_WRITES} fields of the VMCS at once; this is an error in nestvmm"
            )
        super()._check(status)

    def _inject(self, kind: int, vector: int, error_code: int | None) -> None:
        self._check(lib.nv_vmx_inject(self.vcpu, kind, vector, error_code or 0))

    def _exchange(self, encodings: Iterable[int] = ()) -> list[int]:
        """Reads fields of the VMCS, after the writes that wait."""
        fields = ffi.new("struct nv_vmx_field[]", [(encoding, 0) for encoding in encodings])
        self._check(lib.nv_vmx_exchange(self.vcpu, fields, len(fields)))
        return [field.value for field in fields]

    def get_msr(self, index: int) -> int | None:
        """KVM's value of an MSR, or the VMCS's."""
        if index in _MSRS and self._outside():
            return self._exchange([_MSRS[index]])[0]
        return super().get_msr(index)

    def refusal(self, code: int, information: int) -> str:
        """The rules of VM entry that level n's registers break."""
        if code != _GUEST_STATE or information:
            return vmx_failure(code, information)
        efer = efer_bits(self._cpuid) | EFER_LMA
        rules = broken_rules(self.regs(), self.sregs(), Limits(cr4_bits(self._cpuid), efer, physical_bits(self._cpuid)))
        return f"{'; '.join(rules)} (Intel SDM vol. 3, 27.3.1)" if rules else vmx_failure(code, information)

    def request_timer(self, cycles: int) -> None:
        """One event when level n has run so long."""
        self._c.timer = self._timer_value(cycles)

    def request_timer_above(self, space: int, cycles: int) -> None:
        """One event when that machine, or what it runs, has run so long."""
        self._timer_value(cycles)
        self.nested.request_timer(space, cycles)

    def _timer_value(self, cycles: int) -> int:
        """What the processor's timer counts down from; raises ValueError for what it cannot count."""
        rate = self.feature_msrs()[_MSR_VMX_MISC] & 31
        if not 0 < cycles >> rate < 1 << 32:
            raise ValueError(f"{cycles} cycles: this processor's timer takes {1 << rate} to {(1 << 32 + rate) - 1}")
        if not self.feature_msrs()[_MSR_PIN] >> 32 & _PIN_TIMER:
            raise ValueError("the VMX of this host's KVM has no preemption timer")
        return cycles >> rate

    def set_msr(self, index: int, value: int) -> bool:
        """Sets KVM's value of an MSR, or the VMCS's."""
        if index in _MSRS and self._outside():
            lib.nv_vmx_put(self._c, _MSRS[index], value)
            return True
        return super().set_msr(index, value)

    def _block_sregs(self, sregs: Sregs) -> None:
        got = self._exchange(_SREGS_FIELDS)
        for number, name in enumerate(_SEGMENTS):
            setattr(sregs, name, _segment_of(*got[4 * number : 4 * number + 4]))
        for number, table in enumerate((sregs.gdt, sregs.idt), start=2 * len(_SEGMENTS)):
            table.base, table.limit = got[2 * number : 2 * number + 2]
        cr0, cr0_shadow, sregs.cr3, cr4, _, sregs.efer = got[-6:]
        sregs.cr0 = cr0 & ~CR0_NE | cr0_shadow & CR0_NE
        sregs.cr4 = cr4 & ~CR4_VMXE

    def _hide_sregs(self, sregs: Sregs) -> None:
        sregs.cr4 &= ~CR4_VMXE

    def _set_block_sregs(self, sregs: Sregs) -> None:
        values: list[int] = []
        own = CR4_VMXE if self.nested.c.machines[0].vmx.vmxe else 0
        for name in _SEGMENTS:
            values += _fields_of(getattr(sregs, name))
        for table in (sregs.gdt, sregs.idt):
            values += table.base, table.limit
        values += sregs.cr0 | CR0_NE, sregs.cr0, sregs.cr3, sregs.cr4 | CR4_VMXE, sregs.cr4 | own, sregs.efer
        for encoding, value in zip(_SREGS_FIELDS, values, strict=True):
            lib.nv_vmx_put(self._c, encoding, value)
        if sregs.cr0 & CR0_PG and sregs.cr4 & CR4_PAE and not sregs.efer & EFER_LMA:
            self._put_pointers(sregs)
        long_mode = _ENTRY_LONG_MODE if sregs.efer & EFER_LMA else 0
        lib.nv_vmx_put(self._c, lib.NV_VMCS_ENTRY_CONTROLS, self._c.entry_controls | long_mode)
        live = self._vcpu.get_sregs()
        if any(getattr(live, name) != getattr(sregs, name) for name in _LIVE):
            for name in _LIVE:
                setattr(live, name, getattr(sregs, name))
            self._vcpu.set_sregs(live)

    def _put_pointers(self, sregs: Sregs) -> None:
        """PAE paging goes by the page-directory-pointer entries that MOV to CR3 loads (Intel SDM vol. 3, 4.4.1)."""
        unpaged = copy(sregs)
        unpaged.cr0 &= ~CR0_PG
        try:
            entries = self.paging.read(unpaged, sregs.cr3 & 0xFFFFFFE0, 32)
        except UnbackedError:
            entries = bytes(32)
        for number, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
            lib.nv_vmx_put(self._c, lib.NV_VMCS_GUEST_PDPTE0 + 2 * number, entry)


def _segment_of(selector: int, base: int, limit: int, rights: int) -> Segment:
    """A segment's fields in the VMCS; in access rights bits 11 to 8 are reserved (Intel SDM vol. 3, 25.4.1)."""
    return segment_of(selector, base, limit, rights & 0xFF | rights >> 4 & 0xF00, rights >> 16 & 1)


def _fields_of(segment: Segment) -> tuple[int, int, int, int]:
    """Selector, base, limit and access rights."""
    attributes = attributes_of(segment)
    rights = attributes & 0xFF | (attributes & 0xF00) << 4 | segment.unusable << 16
    return segment.selector, segment.base, segment.limit, rights

"""The vmx engine: level n runs by VMLAUNCH and VMRESUME in the switcher, so that every VMX exit reaches the table.

It needs a KVM that offers its guests VMX (kvm_intel, nested=1). For that KVM the switcher is L1 and our level n its L2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from nestvmm._native import ffi, lib
from nestvmm.engines.engine import EngineConfig
from nestvmm.engines.switched import SwitchedEngine
from nestvmm.engines.switcher import CODE, DATA, TASK, switcher_sregs
from nestvmm.engines.vmx_controls import controls_for, trappable
from nestvmm.errors import HostError
from nestvmm.kvm import CpuidEntry, Segment, Sregs
from nestvmm.x86.exit_reason import REASONS, ExitReason

__all__ = ["VmxEngine"]

_CPUID_VMX: Final = (1, 1 << 5)
_CR0_NE: Final = 1 << 5
_CR4_VMXE: Final = 1 << 13
_CR4_PAE: Final = 1 << 5
_CR0_PG: Final = 1 << 31
_EFER_LMA: Final = 1 << 10
_MSR_FEATURE_CONTROL: Final = 0x3A
_MSR_VMX_BASIC: Final = 0x480
_LOCKED_VMX: Final = 5  # IA32_FEATURE_CONTROL: locked, VMX outside SMX (Intel SDM vol. 3, 24.7)
_ENTRY_LONG_MODE: Final = 1 << 9

# In the order of the VMCS's fields, which are two apart (Intel SDM vol. 3, appendix B).
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")
_TABLES: Final = (("gdt", lib.NV_VMCS_GUEST_GDTR_BASE, lib.NV_VMCS_GUEST_GDTR_LIMIT),
                  ("idt", lib.NV_VMCS_GUEST_IDTR_BASE, lib.NV_VMCS_GUEST_IDTR_LIMIT))
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

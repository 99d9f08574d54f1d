"""The VMCS's fields that L0 hands to the switcher: there is room for all, and one too many does not go unnoticed."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest

from nestvmm._native import ffi, lib
from nestvmm.engines.vmx import VmxEngine
from nestvmm.errors import HostError

SOURCE = Path(__file__).parents[2] / "native" / "vmcs.h"
SEGMENTS = 8


@pytest.fixture
def vcpu() -> Any:
    """A vCPU of the engine whose level n is outside; nothing runs."""
    kinds = ("vmx_block", "mailbox", "paging", "shadow", "nested")
    parts = {kind: ffi.new(f"struct nv_{kind} *") for kind in kinds}
    parts["mailbox"].state = lib.NV_SWITCHER_OUTSIDE
    parts["nested"].shadow = parts["shadow"]
    switched = {"mailbox": parts["mailbox"], "paging": parts["paging"], "shadow": parts["shadow"]}
    vmx = ffi.new("struct nv_vmx *", {"block": parts["vmx_block"], "switched": switched, "nested": parts["nested"]})
    run, vcpu = ffi.new("struct kvm_run *"), ffi.new("struct nv_vcpu *")
    lib.nv_vmx_init(vcpu, vmx, -1, run, 1)
    lib.nv_nested_vmx_init(parts["nested"])
    yield vcpu, vmx
    del parts


def test_all_fields_that_l0_knows_fit_at_once() -> None:
    """Those of the header, and the segments' that are derived from ES's."""
    named = {int(value, 16) for value in re.findall(r"#define NV_VMCS_\w+ (0x[0-9a-f]+)", SOURCE.read_text())}
    parts = (lib.NV_VMCS_GUEST_ES, lib.NV_VMCS_GUEST_ES_BASE, lib.NV_VMCS_GUEST_ES_LIMIT, lib.NV_VMCS_GUEST_ES_RIGHTS)
    derived = {part + 2 * number for part in parts for number in range(SEGMENTS)}
    assert 80 < len(named | derived) <= lib.NV_VMX_WRITES


def test_a_field_is_written_once_with_its_last_value(vcpu: Any) -> None:
    _, vmx = vcpu
    for value in range(2 * lib.NV_VMX_WRITES):
        lib.nv_vmx_put(vmx, 0x6800, value)
    assert (vmx.block.writes, vmx.block.write[0].value, vmx.overflowed) == (1, 2 * lib.NV_VMX_WRITES - 1, 0)


def test_one_field_too_many_is_an_error(vcpu: Any) -> None:
    vcpu, vmx = vcpu
    for number in range(lib.NV_VMX_WRITES):
        lib.nv_vmx_put(vmx, 2 * number, number)
    assert (vmx.block.writes, vmx.overflowed) == (lib.NV_VMX_WRITES, 0)
    lib.nv_vmx_put(vmx, 0x7FFE, 1)
    assert (vmx.block.writes, vmx.overflowed) == (lib.NV_VMX_WRITES, 1)
    assert lib.nv_vmx_exchange(vcpu, ffi.NULL, 0) == -errno.ENOSPC
    assert lib.nv_vcpu_run(vcpu) == -errno.ENOSPC
    engine = VmxEngine.__new__(VmxEngine)
    engine._c = vmx
    with pytest.raises(HostError, match=f"more than {lib.NV_VMX_WRITES} fields of the VMCS at once"):
        engine._check(-errno.ENOSPC)

"""The state of nested virtualization, which KVM moves as one block of bytes (api.rst 4.114)."""

from __future__ import annotations

from errno import E2BIG, ENOTTY

from nestvmm._native import ffi
from nestvmm.kvm import ioctls
from nestvmm.kvm.caps import Cap
from nestvmm.kvm.handle import Handle
from nestvmm.kvm.structs import NestedState

__all__ = ["read_nested_state", "write_nested_state"]

_FIXED = 8  # flags, format, size
_HEADER = 128


def read_nested_state(vcpu: Handle) -> NestedState:
    """KVM_GET_NESTED_STATE. KVM says the greatest size as its capability's value."""
    size = vcpu.check(Cap.NESTED_STATE)
    if size < _HEADER:
        raise vcpu._error(ioctls.GET_NESTED_STATE, ENOTTY)
    block = ffi.new("char[]", size)
    c = ffi.cast("struct kvm_nested_state *", block)
    c.size = size
    vcpu._ioctl(ioctls.GET_NESTED_STATE, c)
    raw = bytes(ffi.buffer(block, min(c.size, size)))
    return NestedState(c.flags, c.format, raw[_FIXED:_HEADER], raw[_HEADER:])


def write_nested_state(vcpu: Handle, state: NestedState) -> None:
    """KVM_SET_NESTED_STATE. Raises ValueError when the header has not 120 bytes, KvmError for what KVM refuses."""
    if len(state.header) != _HEADER - _FIXED:
        raise ValueError(f"NestedState.header has {len(state.header)} bytes, {_HEADER - _FIXED} are needed")
    size = _HEADER + len(state.data)
    most = vcpu.check(Cap.NESTED_STATE)
    if most and size > most:
        raise vcpu._error(ioctls.SET_NESTED_STATE, E2BIG, f"{size} bytes were given, KVM takes {most}")
    block = ffi.new("char[]", bytes(_FIXED) + state.header + state.data)
    c = ffi.cast("struct kvm_nested_state *", block)
    c.flags, c.format, c.size = state.flags, state.format, size
    vcpu._ioctl(ioctls.SET_NESTED_STATE, c)

"""Answers to exits: what userspace writes into struct kvm_run before the next KVM_RUN completes the access."""

from __future__ import annotations

from typing import Any

from nestvmm._native import ffi, lib
from nestvmm.kvm.exits import port_data, tdx

__all__ = ["refuse", "reply"]


def reply(run: Any, answer: bytes | int) -> None:
    """Answer the exit that `run` reports: bytes of the exact size, or their value as an unsigned little-endian number.

    Raises ValueError when the exit awaits no answer or the answer does not fit.
    """
    place = _place(run)
    data = answer if isinstance(answer, bytes) else _bytes(answer, len(place))
    if len(data) != len(place):
        raise ValueError(f"the answer has {len(data)} bytes, the exit awaits {len(place)}")
    place[:] = data


def refuse(run: Any) -> None:
    """Make the MSR access that `run` reports raise #GP in the guest."""
    if run.exit_reason not in (lib.KVM_EXIT_X86_RDMSR, lib.KVM_EXIT_X86_WRMSR):
        raise ValueError(f"only an MSR access can be refused, not exit reason {run.exit_reason}")
    run.msr.error = 1


def _bytes(answer: int, size: int) -> bytes:
    try:
        return answer.to_bytes(size, "little")
    except OverflowError as error:
        raise ValueError(f"{answer:#x} is not an unsigned number of {size} bytes") from error


def _place(run: Any) -> Any:
    """The bytes of `run` that the answer goes to."""
    reason = run.exit_reason
    if reason == lib.KVM_EXIT_IO and run.io.direction != lib.KVM_EXIT_IO_OUT:
        return port_data(run)
    if reason == lib.KVM_EXIT_MMIO and not run.mmio.is_write:
        return ffi.buffer(ffi.addressof(run.mmio, "data"), run.mmio.len)
    if reason == lib.KVM_EXIT_TDX:
        return ffi.buffer(ffi.addressof(tdx(run), "ret"))
    place = _HYPERV_PLACES.get(run.hyperv.type) if reason == lib.KVM_EXIT_HYPERV else _PLACES.get(reason)
    if place is None:
        raise ValueError(f"exit reason {reason} awaits no answer")
    return ffi.buffer(ffi.addressof(run, *place))


_PLACES: dict[int, tuple[str, ...]] = {
    lib.KVM_EXIT_X86_RDMSR: ("msr", "data"),
    lib.KVM_EXIT_HYPERCALL: ("hypercall", "ret"),
    lib.KVM_EXIT_XEN: ("xen", "u", "hcall", "result"),
}

_HYPERV_PLACES: dict[int, tuple[str, ...]] = {
    lib.KVM_EXIT_HYPERV_HCALL: ("hyperv", "u", "hcall", "result"),
    lib.KVM_EXIT_HYPERV_SYNDBG: ("hyperv", "u", "syndbg", "status"),
}

"""A virtual processor: running it, its registers and its events."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nestvmm._native import ffi, lib
from nestvmm.kvm import ioctls, replies
from nestvmm.kvm.caps import Cap
from nestvmm.kvm.cpuid import c_cpuid, read_cpuid
from nestvmm.kvm.debug import Breakpoint, debug_registers
from nestvmm.kvm.errors import KvmError
from nestvmm.kvm.exits import Exit, outcome
from nestvmm.kvm.handle import Handle
from nestvmm.kvm.ioctls import Ioctl
from nestvmm.kvm.msrs import read_msrs, write_msrs
from nestvmm.kvm.nested import read_nested_state, write_nested_state
from nestvmm.kvm.stats import Stats
from nestvmm.kvm.structs import (
    CpuidEntry,
    DebugRegs,
    Fpu,
    MpState,
    NestedState,
    Regs,
    Sregs,
    Translation,
    VcpuEvents,
)

if TYPE_CHECKING:
    from nestvmm.kvm.vm import Vm

__all__ = ["Vcpu"]

_XSAVE_SIZE = 4096
_LAPIC_SIZE = 1024
_XCRS_MOST = 16


class Vcpu(Handle):
    """Made by `Vm.create_vcpu`. Use it from one thread; only `immediate_exit` may be set from another.

    The C hot path takes `fd` and `kvm_run` and runs instead of `run`; both stay valid until `close`.
    """

    def __init__(self, fd: int, run_size: int, vm: Vm) -> None:
        super().__init__(fd)
        self._vm = vm
        try:
            mapping = mmap.mmap(fd, run_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            self.close()
            raise KvmError("mmap of a vCPU", error.errno or 0) from None
        self._run: Any = ffi.from_buffer("struct kvm_run *", mapping)

    def close(self) -> None:
        """Give the descriptor and the mapping back. The mapping lives on while someone holds `kvm_run`."""
        self._run = None
        super().close()

    def check(self, cap: Cap | int) -> int:
        """KVM_CHECK_EXTENSION on its VM, which must still be open."""
        return self._vm.check(cap)

    # running

    @property
    def kvm_run(self) -> Any:
        """The mapping shared with KVM: a cffi `struct kvm_run *`."""
        if self._run is None:
            raise ValueError("this Vcpu is closed")
        return self._run

    @property
    def run_address(self) -> int:
        """Where `kvm_run` is in this process."""
        return int(ffi.cast("uintptr_t", self.kvm_run))

    @property
    def immediate_exit(self) -> bool:
        """Whether KVM_RUN gives InterruptedExit at once, after it completed the exit that was answered. Stays set."""
        return bool(self.kvm_run.immediate_exit)

    @immediate_exit.setter
    def immediate_exit(self, wanted: bool) -> None:
        self.kvm_run.immediate_exit = wanted

    def run(self) -> Exit:
        """KVM_RUN: complete the last exit with its answer, then run the guest until the next one."""
        run = self.kvm_run
        result = lib.nv_ioctl_value(self.fd, lib.KVM_RUN, 0)
        exit_ = outcome(run, result)
        if exit_ is None:
            raise self._error(ioctls.RUN, -result)
        return exit_

    def reply(self, answer: bytes | int) -> None:
        """Answer the last exit: the bytes that an IN, a load or RDMSR gets, or the result of a hypercall.

        An int counts as that many bytes, unsigned and little-endian. A read without answer gets what `kvm_run` holds.
        Raises ValueError when the exit awaits no answer or the answer does not fit.
        """
        replies.reply(self.kvm_run, answer)

    def refuse(self) -> None:
        """Answer the last exit, which was an MSR access, by #GP."""
        replies.refuse(self.kvm_run)

    # registers

    def get_regs(self) -> Regs:
        """KVM_GET_REGS."""
        return self._get(ioctls.GET_REGS, Regs)

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""
        self._set(ioctls.SET_REGS, regs)

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS."""
        return self._get(ioctls.GET_SREGS, Sregs)

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS."""
        self._set(ioctls.SET_SREGS, sregs)

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """KVM_GET_MSRS: values by index. Raises KvmError naming the first MSR that KVM refuses."""
        return read_msrs(self, ioctls.GET_MSRS, indices)

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """KVM_SET_MSRS, in order. Raises KvmError naming the first MSR that KVM refuses."""
        write_msrs(self, ioctls.SET_MSRS, values)

    def get_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_CPUID2."""
        return read_cpuid(self, ioctls.GET_CPUID2)

    def set_cpuid(self, entries: Iterable[CpuidEntry]) -> None:
        """KVM_SET_CPUID2: what the guest's CPUID answers. Before the first run."""
        self._ioctl(ioctls.SET_CPUID2, c_cpuid(entries))

    def get_fpu(self) -> Fpu:
        """KVM_GET_FPU."""
        return self._get(ioctls.GET_FPU, Fpu)

    def set_fpu(self, fpu: Fpu) -> None:
        """KVM_SET_FPU."""
        self._set(ioctls.SET_FPU, fpu)

    def get_xsave(self) -> bytes:
        """The XSAVE area: KVM_GET_XSAVE2 where it has more than 4096 bytes, else KVM_GET_XSAVE."""
        size = self.check(Cap.XSAVE2)
        if size > _XSAVE_SIZE:
            return self._get_bytes(ioctls.GET_XSAVE2, size)
        return self._get_bytes(ioctls.GET_XSAVE, _XSAVE_SIZE)

    def set_xsave(self, area: bytes) -> None:
        """KVM_SET_XSAVE with as many bytes as `get_xsave` gives."""
        self._set_bytes(ioctls.SET_XSAVE, area, max(self.check(Cap.XSAVE2), _XSAVE_SIZE))

    def get_xcrs(self) -> dict[int, int]:
        """KVM_GET_XCRS: extended control registers by number."""
        c = ffi.new("struct kvm_xcrs *")
        self._ioctl(ioctls.GET_XCRS, c)
        return {xcr.xcr: xcr.value for xcr in c.xcrs[0 : c.nr_xcrs]}

    def set_xcrs(self, values: Mapping[int, int]) -> None:
        """KVM_SET_XCRS of at most 16, by number. Raises KvmError (EINVAL) for values that XSETBV would refuse."""
        if len(values) > _XCRS_MOST:
            raise ValueError(f"{len(values)} extended control registers: KVM takes at most {_XCRS_MOST}")
        xcrs = [{"xcr": number, "value": value} for number, value in values.items()]
        self._ioctl(ioctls.SET_XCRS, ffi.new("struct kvm_xcrs *", {"nr_xcrs": len(xcrs), "xcrs": xcrs}))

    def get_debug_regs(self) -> DebugRegs:
        """KVM_GET_DEBUGREGS: the guest's own debug registers."""
        return self._get(ioctls.GET_DEBUGREGS, DebugRegs)

    def set_debug_regs(self, registers: DebugRegs) -> None:
        """KVM_SET_DEBUGREGS."""
        self._set(ioctls.SET_DEBUGREGS, registers)

    def get_lapic(self) -> bytes:
        """KVM_GET_LAPIC: 1024 bytes, the register at offset n as in the APIC's page."""
        return self._get_bytes(ioctls.GET_LAPIC, _LAPIC_SIZE)

    def set_lapic(self, registers: bytes) -> None:
        """KVM_SET_LAPIC with 1024 bytes. Raises ValueError for another number."""
        self._set_bytes(ioctls.SET_LAPIC, registers, _LAPIC_SIZE)

    def get_nested_state(self) -> NestedState:
        """KVM_GET_NESTED_STATE."""
        return read_nested_state(self)

    def set_nested_state(self, state: NestedState) -> None:
        """KVM_SET_NESTED_STATE."""
        write_nested_state(self, state)

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ: the guest's TSC, in kHz."""
        return self._ioctl(ioctls.GET_TSC_KHZ)

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ. Raises KvmError for a frequency that the host cannot give."""
        self._ioctl(ioctls.SET_TSC_KHZ, khz)

    # events

    def get_events(self) -> VcpuEvents:
        """KVM_GET_VCPU_EVENTS."""
        return self._get(ioctls.GET_VCPU_EVENTS, VcpuEvents)

    def set_events(self, events: VcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""
        self._set(ioctls.SET_VCPU_EVENTS, events)

    def get_mp_state(self) -> MpState:
        """KVM_GET_MP_STATE."""
        c = ffi.new("struct kvm_mp_state *")
        self._ioctl(ioctls.GET_MP_STATE, c)
        return MpState(c.mp_state)

    def set_mp_state(self, state: MpState) -> None:
        """KVM_SET_MP_STATE."""
        self._ioctl(ioctls.SET_MP_STATE, ffi.new("struct kvm_mp_state *", (state,)))

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT: queue an external interrupt. Raises KvmError: EINVAL above 255, ENXIO with an irqchip."""
        self._ioctl(ioctls.INTERRUPT, ffi.new("struct kvm_interrupt *", (vector,)))

    def nmi(self) -> None:
        """KVM_NMI: queue a non-maskable interrupt."""
        self._ioctl(ioctls.NMI)

    # looking inside

    def translate(self, linear_address: int) -> Translation:
        """KVM_TRANSLATE: through the guest's own page tables."""
        c = Translation(linear_address).fill(Translation.new())
        self._ioctl(ioctls.TRANSLATE, c)
        return Translation.of(c)

    def set_guest_debug(
        self,
        *,
        single_step: bool = False,
        software_breakpoints: bool = False,
        hardware_breakpoints: Sequence[Breakpoint] = (),
        block_interrupts: bool = False,
    ) -> None:
        """KVM_SET_GUEST_DEBUG: which debug events are DebugExits. Nothing asked for: none, the guest has them again.

        software_breakpoints: INT3 exits instead of raising #BP. block_interrupts: none is injected while stepping.
        """
        control = (
            (lib.KVM_GUESTDBG_SINGLESTEP if single_step else 0)
            | (lib.KVM_GUESTDBG_USE_SW_BP if software_breakpoints else 0)
            | (lib.KVM_GUESTDBG_USE_HW_BP if hardware_breakpoints else 0)
            | (lib.KVM_GUESTDBG_BLOCKIRQ if block_interrupts else 0)
        )
        if control:
            control |= lib.KVM_GUESTDBG_ENABLE
        request = ffi.new("struct kvm_guest_debug *", {"control": control})
        request.arch.debugreg = debug_registers(hardware_breakpoints)
        self._ioctl(ioctls.SET_GUEST_DEBUG, request)

    def enable_cap(self, cap: Cap | int, *args: int) -> None:
        """KVM_ENABLE_CAP with up to four arguments (api.rst 6)."""
        self._enable_cap(ioctls.VCPU_ENABLE_CAP, cap, args)

    def stats(self) -> Stats:
        """KVM_GET_STATS_FD: the vCPU's binary statistics, such as "exits"."""
        return Stats(self._ioctl(ioctls.GET_STATS_FD))

    def _get_bytes(self, ioctl: Ioctl, size: int) -> bytes:
        c = ffi.new("char[]", size)
        self._ioctl(ioctl, c)
        return bytes(ffi.buffer(c))

    def _set_bytes(self, ioctl: Ioctl, data: bytes, size: int) -> None:
        if len(data) != size:
            raise ValueError(f"{ioctl.name}: {len(data)} bytes were given, {size} are needed")
        self._ioctl(ioctl, ffi.new("char[]", data))

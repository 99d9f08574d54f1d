"""A virtual machine: memory, interrupt controllers, timers, and the maker of vCPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nestvmm._native import ffi, lib
from nestvmm.kvm import ioctls
from nestvmm.kvm.caps import Cap
from nestvmm.kvm.handle import Handle
from nestvmm.kvm.irq import IrqchipRoute, MsiRoute, c_routing
from nestvmm.kvm.memory import PAGE
from nestvmm.kvm.msrs import MsrFilterRange, c_msr_filter
from nestvmm.kvm.stats import Stats
from nestvmm.kvm.structs import ClockData, IoapicState, PicState, PitState
from nestvmm.kvm.vcpu import Vcpu

__all__ = ["IOAPIC", "PIC_MASTER", "PIC_SLAVE", "Vm"]

# KVM_IRQCHIP_*
PIC_MASTER = 0
PIC_SLAVE = 1
IOAPIC = 2

_CHIPS: dict[int, tuple[str, type[PicState] | type[IoapicState]]] = {
    PIC_MASTER: ("pic", PicState),
    PIC_SLAVE: ("pic", PicState),
    IOAPIC: ("ioapic", IoapicState),
}


class Vm(Handle):
    """Made by `Kvm.create_vm`. Closing it does not close its vCPUs; KVM frees it once they are closed too."""

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self._run_size = run_size
        self._slots: dict[int, int] = {}

    def create_vcpu(self, vcpu_id: int = 0) -> Vcpu:
        """KVM_CREATE_VCPU. `vcpu_id` is its APIC id, below what `check(Cap.MAX_VCPU_ID)` gives; it must be new."""
        return Vcpu(self._ioctl(ioctls.CREATE_VCPU, vcpu_id), self._run_size, self)

    # memory

    def set_memory_region(
        self,
        slot: int,
        guest_address: int,
        size: int,
        host_address: int,
        *,
        readonly: bool = False,
        log_dirty: bool = False,
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION: make or change a slot. Addresses and size are multiples of 4096 bytes.

        What is at `host_address` must stay mapped as long as the slot is there. A guest's write to a read-only slot is
        an MmioExit.
        """
        flags = (lib.KVM_MEM_READONLY if readonly else 0) | (lib.KVM_MEM_LOG_DIRTY_PAGES if log_dirty else 0)
        region = ffi.new("struct kvm_userspace_memory_region *", (slot, flags, guest_address, size, host_address))
        self._ioctl(ioctls.SET_READONLY_MEMORY_REGION if readonly else ioctls.SET_USER_MEMORY_REGION, region)
        self._slots[slot] = size

    def delete_memory_region(self, slot: int) -> None:
        """Remove a slot. Raises KvmError (EINVAL) when there is none."""
        region = ffi.new("struct kvm_userspace_memory_region *", {"slot": slot})
        self._ioctl(ioctls.SET_USER_MEMORY_REGION, region)
        self._slots.pop(slot, None)

    def get_dirty_log(self, slot: int) -> list[int]:
        """KVM_GET_DIRTY_LOG: the slot's pages (0 is its first) written since the last call, in order.

        Raises ValueError for a slot that this object did not make.
        """
        if slot not in self._slots:
            raise ValueError(f"memory slot {slot} is not set")
        words = (self._slots[slot] // PAGE + 63) // 64
        bitmap = ffi.new("__u64[]", words)
        log = ffi.new("struct kvm_dirty_log *", {"slot": slot})
        log.dirty_bitmap = bitmap
        self._ioctl(ioctls.GET_DIRTY_LOG, log)
        return [at * 64 + bit for at, word in enumerate(bitmap) if word for bit in range(64) if word >> bit & 1]

    # interrupts and timers

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP: two PICs, an I/O APIC and a local APIC for each vCPU. Before the first vCPU."""
        self._ioctl(ioctls.CREATE_IRQCHIP)

    def get_irqchip(self, chip: int) -> PicState | IoapicState:
        """KVM_GET_IRQCHIP of PIC_MASTER, PIC_SLAVE or IOAPIC."""
        member, kind = _chip(chip)
        c = ffi.new("struct kvm_irqchip *", {"chip_id": chip})
        self._ioctl(ioctls.GET_IRQCHIP, c)
        return kind.of(getattr(c.chip, member))

    def set_irqchip(self, chip: int, state: PicState | IoapicState) -> None:
        """KVM_SET_IRQCHIP of PIC_MASTER, PIC_SLAVE or IOAPIC. Raises ValueError when `state` is the other kind's."""
        member, kind = _chip(chip)
        if not isinstance(state, kind):
            raise ValueError(f"interrupt controller {chip} needs a {kind.__name__}, not a {type(state).__name__}")
        c = ffi.new("struct kvm_irqchip *", {"chip_id": chip})
        state.fill(getattr(c.chip, member))
        self._ioctl(ioctls.SET_IRQCHIP, c)

    def create_pit2(self, speaker: bool = False) -> None:
        """KVM_CREATE_PIT2, after the irqchip. `speaker`: KVM also answers port 0x61."""
        flags = lib.KVM_PIT_SPEAKER_DUMMY if speaker else 0
        self._ioctl(ioctls.CREATE_PIT2, ffi.new("struct kvm_pit_config *", {"flags": flags}))

    def get_pit2(self) -> PitState:
        """KVM_GET_PIT2."""
        return self._get(ioctls.GET_PIT2, PitState)

    def set_pit2(self, state: PitState) -> None:
        """KVM_SET_PIT2."""
        self._set(ioctls.SET_PIT2, state)

    def irq_line(self, gsi: int, level: bool) -> None:
        """KVM_IRQ_LINE: drive a GSI of the in-kernel irqchip; KVM ignores one that leads nowhere.

        Raises KvmError (ENXIO) without an irqchip.
        """
        self._ioctl(ioctls.IRQ_LINE, ffi.new("struct kvm_irq_level *", {"irq": gsi, "level": int(level)}))

    def irqfd(self, fd: int, gsi: int, *, resample_fd: int | None = None, deassign: bool = False) -> None:
        """KVM_IRQFD: writing the eventfd `fd` pulses `gsi`; with `resample_fd` the line stays up until its EOI."""
        flags = (lib.KVM_IRQFD_FLAG_DEASSIGN if deassign else 0) | (
            0 if resample_fd is None else lib.KVM_IRQFD_FLAG_RESAMPLE
        )
        request = ffi.new("struct kvm_irqfd *", {"fd": fd, "gsi": gsi, "flags": flags, "resamplefd": resample_fd or 0})
        self._ioctl(ioctls.IRQFD if resample_fd is None else ioctls.IRQFD_WITH_RESAMPLE, request)

    def ioeventfd(
        self,
        fd: int,
        address: int,
        length: int,
        *,
        pio: bool = False,
        datamatch: int | None = None,
        deassign: bool = False,
    ) -> None:
        """KVM_IOEVENTFD: a guest's write of `length` bytes (0: any) to `address` (`pio`: a port) signals eventfd `fd`.

        With `datamatch`, only a write of that value. Such writes no longer exit.
        """
        flags = lib.KVM_IOEVENTFD_FLAG_PIO if pio else 0
        if datamatch is not None:
            flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH
        if deassign:
            flags |= lib.KVM_IOEVENTFD_FLAG_DEASSIGN
        request = ffi.new(
            "struct kvm_ioeventfd *",
            {"datamatch": datamatch or 0, "addr": address, "len": length, "fd": fd, "flags": flags},
        )
        self._ioctl(ioctls.IOEVENTFD, request)

    def set_gsi_routing(self, routes: Iterable[IrqchipRoute | MsiRoute]) -> None:
        """KVM_SET_GSI_ROUTING: replace the whole table that maps GSIs to pins and messages."""
        self._ioctl(ioctls.SET_GSI_ROUTING, c_routing(routes))

    def signal_msi(self, address: int, data: int) -> int:
        """KVM_SIGNAL_MSI: deliver a message. Gives how many vCPUs took it; 0: the guest blocked it."""
        request = ffi.new(
            "struct kvm_msi *", {"address_lo": address & 0xFFFFFFFF, "address_hi": address >> 32, "data": data}
        )
        return self._ioctl(ioctls.SIGNAL_MSI, request)

    # policy of the whole VM

    def enable_cap(self, cap: Cap | int, *args: int) -> None:
        """KVM_ENABLE_CAP with up to four arguments (api.rst 7)."""
        self._enable_cap(ioctls.VM_ENABLE_CAP, cap, args)

    def set_msr_filter(self, ranges: Sequence[MsrFilterRange], default_deny: bool = False) -> None:
        """KVM_X86_SET_MSR_FILTER: at most 16 ranges; `default_deny`: what no range names is denied too. () lifts it."""
        c, bitmaps = c_msr_filter(ranges, default_deny)
        self._ioctl(ioctls.SET_MSR_FILTER, c)
        del bitmaps  # KVM has copied them

    def set_tss_address(self, address: int) -> None:
        """KVM_SET_TSS_ADDR: three pages below 4 GiB that the guest does not use (kvm_intel needs them)."""
        self._ioctl(ioctls.SET_TSS_ADDR, address)

    def set_identity_map_address(self, address: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR: one such page. Before the first vCPU."""
        self._ioctl(ioctls.SET_IDENTITY_MAP_ADDR, ffi.new("__u64 *", address))

    def get_clock(self) -> ClockData:
        """KVM_GET_CLOCK: kvmclock, in nanoseconds."""
        return self._get(ioctls.GET_CLOCK, ClockData)

    def set_clock(self, clock: ClockData) -> None:
        """KVM_SET_CLOCK: what kvmclock is now, in nanoseconds."""
        self._set(ioctls.SET_CLOCK, clock)

    def get_tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ: the frequency that new vCPUs get, in kHz."""
        return self._ioctl(ioctls.VM_GET_TSC_KHZ)

    def set_tsc_khz(self, khz: int) -> None:
        """KVM_SET_TSC_KHZ for the vCPUs that are still to be made. Raises KvmError where the host cannot give it."""
        self._ioctl(ioctls.VM_SET_TSC_KHZ, khz)

    def stats(self) -> Stats:
        """KVM_GET_STATS_FD: the VM's binary statistics."""
        return Stats(self._ioctl(ioctls.GET_STATS_FD))


def _chip(chip: int) -> tuple[str, type[PicState] | type[IoapicState]]:
    if chip not in _CHIPS:
        raise ValueError(f"{chip} is no interrupt controller: 0 and 1 are the PICs, 2 is the I/O APIC")
    return _CHIPS[chip]

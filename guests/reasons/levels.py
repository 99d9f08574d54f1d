"""The hypervisors of tower.toml: each one answers the reason that is its level's."""

from nestvmm.hypervisors import HANDLED, Event, ExitReason, Guest, Hypervisor, Result, on, on_rdmsr, on_wrmsr

__all__ = ["Clock", "Processor", "Registers"]

_LEAF = 0x40000100
_MSR = 0x4E560000
_UD = 6
_UD2_LENGTH = 2
_LOW = 0xFFFFFFFF


class Registers(Hypervisor):
    """At level 1: an MSR that reads as one more than what was written."""

    def start(self, guest: Guest) -> None:
        """Nothing was written yet."""
        super().start(guest)
        self._written = 0

    @on_rdmsr(_MSR)
    def read(self, event: Event) -> Result:
        """RDMSR."""
        return Result.read(self._written + 1)

    @on_wrmsr(_MSR)
    def write(self, event: Event) -> Result:
        """WRMSR."""
        self._written = event.value
        return HANDLED


class Clock(Hypervisor):
    """At level 2: a time-stamp counter that advances by 2**40 at each look."""

    def start(self, guest: Guest) -> None:
        """Time begins."""
        super().start(guest)
        self._looks = 0

    @on(ExitReason.RDTSC)
    def rdtsc(self, event: Event) -> Result:
        """RDTSC."""
        self._looks += 1
        time = self._looks << 40
        regs = self.guest.regs
        regs.rax, regs.rdx = time & _LOW, time >> 32
        self.guest.set_regs(regs)
        return HANDLED


class Processor(Hypervisor):
    """At level 3: a CPUID leaf, and UD2 as an instruction that doubles RAX."""

    @on(ExitReason.CPUID, _LEAF, _LEAF)
    def leaf(self, event: Event) -> Result:
        """The subleaf, marked."""
        regs = self.guest.regs
        regs.rax, regs.rbx, regs.rdx = (regs.rcx & _LOW) ^ 0x4C33, 0, 0
        self.guest.set_regs(regs)
        return HANDLED

    @on(ExitReason.EXCEPTION, _UD, _UD)
    def undefined(self, event: Event) -> Result:
        """UD2."""
        regs = self.guest.regs
        regs.rax, regs.rip = 2 * regs.rax, regs.rip + _UD2_LENGTH
        self.guest.set_regs(regs)
        return HANDLED

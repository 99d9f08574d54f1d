"""Python hypervisors: the base class, the declarations of handlers, and a stock set.

base         Hypervisor, and Guest: what one sees of level x+1
declare      on_io, on_rdmsr, on_mmio ...: handlers per reason and qualifier
blame        whose error it is that a hypervisor's code raises
find         from `console`, `module:Class` or `file.py:Class` to an object

console      a 16550 with interrupts               debug_console  QEMU's port 0xe9
cpuid_policy what CPUID reports                    msr_policy     values and rights of MSRs
logger       writes down events and declines
"""

from nestvmm.hypervisors.base import Guest, GuestAccessError, HandlerClaim, Hypervisor
from nestvmm.hypervisors.declare import on, on_debug, on_instruction, on_io, on_mmio, on_rdmsr, on_wrmsr
from nestvmm.x86.event import HANDLED, Direction, Event, Result
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.rights import Rights

__all__ = [
    "HANDLED",
    "Direction",
    "Event",
    "ExitReason",
    "Guest",
    "GuestAccessError",
    "HandlerClaim",
    "Hypervisor",
    "Result",
    "Rights",
    "on",
    "on_debug",
    "on_instruction",
    "on_io",
    "on_mmio",
    "on_rdmsr",
    "on_wrmsr",
]

"""Whether plain guests of kvm_intel's have NMIs masked, and how they get rid of that in the lab.

Bochs 2.7 masks NMIs at an entry whose interruptibility state says so, but does not unmask them at one that does not:
only IRET does. Until then they stay masked for whatever guest runs next, of the same machine or of another, whose exits
say so, and whose NMI window does not open.
"""

from __future__ import annotations

from nestvmm.kvm import HostMemory, Kvm, NmiEvent, Regs, VcpuEvents

__all__ = ["masks_of_plain_guests", "unmask_nmis"]

CODE, STACK = 0x1000, 0x2000
OUT = b"\xe6\x80"
# pushf; push %cs; push the address behind it; iret
IRET = b"\x9c\x0e\x68" + (CODE + 6).to_bytes(2, "little") + b"\xcf"


def mask_of(code: bytes, masked: bool = False) -> int:
    """Runs code in real mode until its first exit; whether KVM finds NMIs masked then."""
    with Kvm() as kvm, kvm.create_vm() as vm, HostMemory(STACK) as memory, vm.create_vcpu() as vcpu:
        memory.write(CODE, code)
        vm.set_memory_region(0, 0, memory.size, memory.address)
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(Regs(rip=CODE, rsp=STACK, rflags=2))
        if masked:
            # KVM does not look at the exit's interruptibility state where it was told that they are not masked
            vcpu.set_events(VcpuEvents(nmi=NmiEvent(masked=1)))
        vcpu.run()
        return vcpu.get_events().nmi.masked


def unmask_nmis() -> None:
    mask_of(IRET + OUT)


def masks_of_plain_guests() -> dict[str, object]:
    """Of one; of one that starts with NMIs masked, and two others behind it; of one with IRET, and one behind that."""
    unmask_nmis()
    kept = [mask_of(OUT), mask_of(OUT, masked=True), mask_of(OUT), mask_of(OUT), mask_of(IRET + OUT), mask_of(OUT)]
    return {"message": "", "kept": kept}

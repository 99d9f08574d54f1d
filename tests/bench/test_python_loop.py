"""The bare loop in Python."""

from __future__ import annotations

import pytest

from nestvmm._native import ffi
from nestvmm.bench.course import Course
from nestvmm.bench.python_loop import python_loop
from nestvmm.errors import HostError
from nestvmm.kvm import HostMemory, Kvm, Regs


@pytest.mark.kvm
def test_it_counts_exits_and_leaves_the_guest_to_others() -> None:
    with Course(20) as course:
        first = course.batch()
        ticks = [course.python_batch(), course.bare_batch(), course.python_batch()]
        again = course.batch()
    # an exit takes thousands of cycles
    assert min(first, again, *ticks) > 500


@pytest.mark.kvm
def test_another_exit_is_an_error() -> None:
    with Kvm() as kvm, kvm.create_vm() as vm, HostMemory(0x1000) as memory, vm.create_vcpu() as vcpu:
        memory.write(0, b"\xe4\x80\xf4")  # in al, 0x80; hlt
        vm.set_memory_region(0, 0x1000, memory.size, memory.address)
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(Regs(rip=0x1000))
        with pytest.raises(HostError, match="the bare loop in Python failed: KVM exit 5"):
            python_loop(vcpu.fd, vcpu.kvm_run, 2)


def test_what_kvm_refuses_is_an_error() -> None:
    with pytest.raises(HostError, match="the bare loop in Python failed: Bad file descriptor"):
        python_loop(-1, ffi.new("struct kvm_run *"), 1)

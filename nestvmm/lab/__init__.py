"""Machines that this host is not: places to run commands, over this host's files.

svm, vmx    SvmLab under QEMU, VmxLab under Bochs              local      LocalLab: this machine, where it nests already
base        what every lab offers                              emulated   what labs under an emulator share
machine     one run of an emulator, and the watch over it      session    our end of the channel, and the errors
kernel      the stock kernel that labs and tests boot          agent      the other end, which runs commands in the lab
modules     those that a lab's init loads                      tools      finds programs, or says which package has them
image       the SVM lab's initramfs and its init               vmx_image  the VMX lab's
boot_disk   boots a kernel under Bochs                         carry      files that the VMX lab takes along
initramfs   writes any initramfs                               dialogue   types answers to a command's prompts
"""

from nestvmm.lab.base import Lab
from nestvmm.lab.dialogue import Dialogue
from nestvmm.lab.local import LocalLab, kvm_amd_nests, kvm_intel_nests
from nestvmm.lab.session import LabError, LabResult, LabTimeoutError
from nestvmm.lab.svm import SvmLab
from nestvmm.lab.vmx import VmxLab

__all__ = [
    "Dialogue",
    "Lab",
    "LabError",
    "LabResult",
    "LabTimeoutError",
    "LocalLab",
    "SvmLab",
    "VmxLab",
    "kvm_amd_nests",
    "kvm_intel_nests",
]

"""Machines that this host is not: places to run commands, over this host's files.

svm         SvmLab: SVM under QEMU's emulated CPU              local      LocalLab: this machine, where it nests already
base        what every lab offers                              session    our end of the channel, and the errors
kernel      the stock kernel that labs and tests boot          agent      the other end, which runs commands in the lab
image       the lab's initramfs and its init                   initramfs  writes any initramfs
tools       finds programs, or says which package has them
"""

from nestvmm.lab.base import Lab
from nestvmm.lab.local import LocalLab, kvm_amd_nests
from nestvmm.lab.session import LabError, LabResult, LabTimeoutError
from nestvmm.lab.svm import SvmLab
from nestvmm.lab.vmx import VmxLab

__all__ = ["Lab", "LabError", "LabResult", "LabTimeoutError", "LocalLab", "SvmLab", "VmxLab", "kvm_amd_nests"]

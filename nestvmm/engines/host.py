"""What this host offers the engines, and why it does not offer the rest."""

from __future__ import annotations

import errno
import platform
from dataclasses import dataclass
from pathlib import Path

from nestvmm.engines.virtualization import SVM, VMX
from nestvmm.kvm import Kvm, KvmError

__all__ = ["Finding", "Host", "examine"]

_CPUINFO = Path("/proc/cpuinfo")
_MODULES = Path("/sys/module")
_NO_DEVICE = "/dev/kvm does not work"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that works, or that does not, with its cause and its cure."""

    name: str
    works: bool
    detail: str = ""
    cause: str = ""
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """All findings."""

    vendor: str
    model: str
    kernel: str
    modules: tuple[str, ...]
    device: Finding
    nesting: Finding
    engines: tuple[Finding, ...]


def examine() -> Host:
    """Looks at this host; opens /dev/kvm and makes a VM."""
    cpu = _cpu()
    modules = tuple(name for name in ("kvm", "kvm_amd", "kvm_intel", "kvm_pvm") if (_MODULES / name).exists())
    device, nested = _device(cpu.get("flags", ""))
    nesting = _nesting(cpu.get("vendor_id", ""), modules, device, nested)
    return Host(
        vendor=cpu.get("vendor_id", "unknown"),
        model=cpu.get("model name", "unknown"),
        kernel=platform.release(),
        modules=modules,
        device=device,
        nesting=nesting,
        engines=(_direct(device), _svm(nested, modules, nesting), _vmx(nested, modules, nesting)),
    )


def _cpu() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    found: dict[str, str] = {}
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return found
    for line in text.splitlines():
        if not line.strip():
            break
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    return found


def _device(flags: str) -> tuple[Finding, set[str]]:
    """Whether /dev/kvm makes a VM, and which of SVM and VMX its guests can have."""
    try:
        with Kvm() as kvm:
            with kvm.create_vm():
                pass
            entries = kvm.get_supported_cpuid()
            offered = {name for name, one in (("SVM", SVM), ("VMX", VMX)) if one.shown(entries)}
    except KvmError as error:
        cause, cure = _device_cure(error, flags)
        return Finding("/dev/kvm", False, str(error), cause, cure), set()
    return Finding("/dev/kvm", True, "it made a VM"), offered


def _device_cure(error: KvmError, flags: str) -> tuple[str, str]:
    if error.errno == errno.EACCES:
        return "you may not open it", "sudo usermod -aG kvm $USER, then log in again; or run as root"
    if error.errno == errno.EBUSY:
        return (
            "another hypervisor holds the processor's virtualization",
            "stop VirtualBox, VMware or Xen, then try again",
        )
    if error.errno == errno.ENOTTY:
        return "it is another device or a file by that name", "sudo rm /dev/kvm, then load kvm_amd or kvm_intel anew"
    if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "KVM refused", "see dmesg"
    if not {"svm", "vmx"} & set(flags.split()):
        return (
            "this processor shows neither SVM nor VMX",
            "bare metal: enable it in the firmware (SVM Mode, Intel VT-x); in a VM: ask for nested virtualization, "
            "such as an instance type or an --enable-nested-virtualization flag of your cloud",
        )
    return "the kvm module is not loaded", "sudo modprobe kvm_amd nested=1, or sudo modprobe kvm_intel nested=1"


def _nesting(vendor: str, modules: tuple[str, ...], device: Finding, offered: set[str]) -> Finding:
    if offered:
        return Finding("nesting", True, f"guests can have {' and '.join(sorted(offered))}")
    if not device.works:
        return Finding("nesting", False, cause=_NO_DEVICE)
    module = next((name for name in ("kvm_amd", "kvm_intel") if name in modules), "")
    if module:
        return Finding(
            "nesting",
            False,
            cause=f"{module} is loaded with nested=0",
            cure=f"sudo modprobe -r {module} && sudo modprobe {module} nested=1 (no VM may run meanwhile); "
            f"to keep it: echo options {module} nested=1 | sudo tee /etc/modprobe.d/nested.conf",
        )
    return Finding(
        "nesting",
        False,
        cause=f"this KVM offers its guests neither SVM nor VMX ({vendor}; it is neither kvm_amd nor kvm_intel)",
        cure="use a host with kvm_amd or kvm_intel and nested=1, or `nestvmm lab svm` and `nestvmm lab vmx`",
    )


def _direct(device: Finding) -> Finding:
    if device.works:
        return Finding("direct", True, "port I/O, MMIO, MSRs, HLT, debug, shutdown, emulation failures")
    return Finding("direct", False, cause=_NO_DEVICE, cure=device.cure)


def _lacking(name: str, module: str, modules: tuple[str, ...], nesting: Finding) -> Finding:
    """An engine whose feature guests of this host do not have: for want of nested=1, or of such a processor."""
    if module in modules or nesting.cause == _NO_DEVICE:
        return Finding(name, False, cause=nesting.cause, cure=nesting.cure)
    return Finding(
        name,
        False,
        cause=f"this host's guests have no {name.upper()}",
        cure=f"use a host with {module} and nested=1, or `nestvmm lab {name} -- COMMAND`, which emulates one",
    )


def _svm(offered: set[str], modules: tuple[str, ...], nesting: Finding) -> Finding:
    if "SVM" not in offered:
        return _lacking("svm", "kvm_amd", modules, nesting)
    return Finding("svm", True, "all of that and every SVM intercept")


def _vmx(offered: set[str], modules: tuple[str, ...], nesting: Finding) -> Finding:
    if "VMX" not in offered:
        return _lacking("vmx", "kvm_intel", modules, nesting)
    return Finding("vmx", True, "all of that and every VMX exit that this KVM offers its guests")

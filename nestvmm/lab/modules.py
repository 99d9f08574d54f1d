"""The kernel modules of a lab: their files in its initramfs, and the shell lines of its init that load them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nestvmm.lab.initramfs import Node, file
from nestvmm.lab.kernel import Kernel, read_module

__all__ = ["module_nodes", "start_script"]

_START = """\
set -e
bb=/{busybox}
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
for module in /{folder}/*; do
    case $module in
    *kvm-amd* | *kvm-intel*) $bb insmod $module nested=1 ;;
    *) $bb insmod $module ;;
    esac
done
"""


def module_nodes(
    kernel: Kernel, modules: Sequence[str], folder: str, change: Callable[[bytes], bytes] = bytes
) -> dict[str, Node]:
    """Files in `folder` of an initramfs, named in the order in which to load them; `change` makes each one's content.

    Raises:
        HostError: one is not there.
    """
    return {
        f"{folder}/{number:02}-{path.name.split('.')[0]}.ko": file(change(read_module(path)))
        for number, path in enumerate(kernel.module_files(modules))
    }


def start_script(busybox: str, folder: str) -> str:
    """What an init begins with: it defines $bb, mounts /proc, /sys and /dev, and loads modules, KVM's with nested=1.

    Both paths are those in the initramfs, without a leading slash. A line that fails ends the script.
    """
    return _START.format(busybox=busybox, folder=folder)

"""What QEMU boots, built once: the kernel unpacked, and an initramfs of busybox, modules, the agent and their init."""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from nestvmm.errors import HostError
from nestvmm.lab import agent
from nestvmm.lab.initramfs import busybox_initramfs, directory, file
from nestvmm.lab.kernel import SVM_MODULES, Kernel, cache_directory, publish
from nestvmm.lab.modules import module_nodes, start_script

__all__ = ["build_initrd", "keep", "unpack_kernel"]

UNUSED = 7 * 24 * 3600  # seconds

INIT = f"""#!/bin/busybox sh
# The kernel hands NESTVMM_PYTHON and NESTVMM_SHARE over from its command line.
# A failure here ends in a panic, which ends QEMU.
{start_script("bin/busybox", "modules")}\
plan9=trans=virtio,version=9p2000.L,msize=1048576
$bb mount -t 9p -o $plan9,ro,cache=loose root /lower
$bb mount -t tmpfs upper /upper
$bb mkdir /upper/files /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /machine
$bb mount -t proc proc /machine/proc
$bb mount -t sysfs sys /machine/sys
$bb mount -t cgroup2 cgroup /machine/sys/fs/cgroup
$bb mkdir /machine/sys/fs/cgroup/command
$bb mount -t devtmpfs dev /machine/dev
$bb mkdir -p /machine/dev/pts /machine/dev/shm
$bb mount -t devpts devpts /machine/dev/pts
$bb mount -t tmpfs shm /machine/dev/shm
$bb mount -t tmpfs run /machine/run
if [ -n "$NESTVMM_SHARE" ]; then
    $bb mkdir -p /machine/mnt/share
    $bb mount -t 9p -o $plan9,cache=none share /machine/mnt/share
fi
$bb ip link set lo up
$bb hostname svm-lab
$bb cp /agent.py /machine/run/agent.py
until [ -e /dev/vport*p1 ]; do $bb sleep 0.05; done
$bb chroot /machine "$NESTVMM_PYTHON" -I -S -B /run/agent.py /dev/vport*p1 /sys/fs/cgroup/command
$bb reboot -f
"""


def build_initrd(kernel: Kernel) -> Path:
    """The initramfs for `kernel`, from the cache when nothing that goes into it has changed."""
    modules = module_nodes(kernel, SVM_MODULES, "modules")
    mount_points = {name: directory() for name in ("lower", "upper", "machine")}
    program = file(Path(agent.__file__).read_bytes())
    archive = busybox_initramfs(INIT, {**mount_points, "agent.py": program, **modules})
    return keep("initrd", archive, lambda: archive)


def unpack_kernel(kernel: Kernel) -> Path:
    """The ELF file inside the bzImage, which boots 2.5 s sooner than one that unpacks itself on an emulated CPU.

    QEMU starts it by its PVH note. A kernel that is not packed with xz, as Debian's is, is left as it is.

    Raises:
        HostError: it is no bzImage, or a damaged one.
    """
    packed = kernel.image.read_bytes()
    if packed[0x202:0x206] != b"HdrS" or len(packed) < 0x250:
        raise HostError(f"{kernel.image} is not a bzImage: install its package again, or fetch it anew")
    # Documentation/arch/x86/boot.rst: setup_sects, payload_offset and payload_length
    payload, length = struct.unpack_from("<II", packed, 0x248)
    payload += (packed[0x1F1] + 1) * 512
    if not packed.startswith(b"\xfd7zXZ\0", payload):
        return kernel.image
    # the payload's last word, behind the xz stream, is its unpacked size
    stream = packed[payload : payload + length]
    try:
        return keep("vmlinux", packed, lambda: lzma.LZMADecompressor().decompress(stream))
    except lzma.LZMAError as error:
        raise HostError(f"{kernel.image} is damaged ({error}): install its package again, or fetch it anew") from None


def keep(name: str, key: bytes, build: Callable[[], bytes]) -> Path:
    """The cached file that `build` makes for `key`. Those that nobody has used for a week are deleted."""
    final = cache_directory() / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}"
    if final.exists():
        os.utime(final)
    else:
        for old in final.parent.glob(f"{name}-*"):
            if time.time() - old.stat().st_mtime > UNUSED:
                old.unlink(missing_ok=True)
        with TemporaryDirectory(prefix="building-", dir=final.parent) as scratch:
            built = Path(scratch, final.name)
            built.write_bytes(build())
            publish(built, final)
    return final

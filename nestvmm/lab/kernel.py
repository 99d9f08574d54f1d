"""The lab's kernel: a stock one with its modules, found on this machine or fetched from Debian once.

NESTVMM_LAB_KERNEL=DIR   an unpacked kernel package (boot/vmlinuz-RELEASE, lib/modules/RELEASE, `depmod -b DIR RELEASE`)
/                        this machine's own kernel, when its files are there and readable
apt-get download         what linux-image-amd64 depends on, kept in the cache with the modules that the lab loads
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nestvmm.errors import HostError
from nestvmm.lab.base import say
from nestvmm.lab.tools import find_tool, find_tools, run_tool

__all__ = ["SVM_MODULES", "VMX_MODULES", "Kernel", "cache_directory", "find_kernel", "publish", "read_module"]

SVM_MODULES = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", "kvm-amd")
VMX_MODULES = ("kvm-intel",)
"""What each lab loads, with what that depends on."""

OVERRIDE = "NESTVMM_LAB_KERNEL"
ELSEWHERE = f"or set {OVERRIDE} to a directory that holds an unpacked kernel package"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and where its modules are.

    Attributes:
        image: the bzImage.
        release: what `uname -r` says in it.
        base: the directory that holds lib/modules.
    """

    image: Path
    release: str
    base: Path

    def module_files(self, modules: Sequence[str]) -> list[Path]:
        """The files of `modules` and of what they depend on, in the order in which to load them."""
        modprobe = [find_tool("modprobe"), "-d", str(self.base), "-S", self.release, "--show-depends"]
        files: dict[Path, None] = {}
        for module in modules:
            cure = f"check {self.base}/lib/modules/{self.release}, {ELSEWHERE}"
            for line in run_tool([*modprobe, module], cure=cure).splitlines():
                kind, _, rest = line.partition(" ")
                if kind == "insmod":  # the other kind is "builtin"
                    files[Path(rest.split()[0])] = None
        return list(files)


def cache_directory() -> Path:
    """Where the lab keeps what it builds once: $NESTVMM_CACHE/lab, by default ~/.cache/nestvmm/lab."""
    chosen = os.environ.get("NESTVMM_CACHE")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    directory = (Path(chosen) if chosen else Path(cache).expanduser() / "nestvmm") / "lab"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"cannot make {directory}: {error.strerror}: set NESTVMM_CACHE to a writable place") from None
    return directory.resolve()


def find_kernel() -> Kernel:
    """The kernel that the lab boots and that tests boot as a guest in it.

    Raises:
        HostError: there is none and none can be fetched; says why and what to do.
    """
    if override := os.environ.get(OVERRIDE):
        for kernel in _kernels(Path(override).resolve()):
            return kernel
        raise HostError(
            f"{OVERRIDE}={override} holds no kernel: expected boot/vmlinuz-RELEASE and lib/modules/RELEASE with "
            f"kvm-amd.ko, kvm-intel.ko and modules.dep (made by `depmod -b {override} RELEASE`)"
        )
    kept = cache_directory() / f"debian-{hashlib.sha256(' '.join(SVM_MODULES + VMX_MODULES).encode()).hexdigest()[:12]}"
    for root in (Path("/"), kept):
        for kernel in _kernels(root):
            return kernel
    package = _fetch(kept)
    for kernel in _kernels(kept):
        return kernel
    raise HostError(f"{package} lacks kvm-amd or kvm-intel: {ELSEWHERE.removeprefix('or ')}")


def read_module(path: Path) -> bytes:
    """A module's contents, unpacked: not every busybox can load a packed one."""
    match path.suffix:
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case ".zst":
            return subprocess.run([find_tool("zstd"), "-dcq", path], capture_output=True, check=True).stdout
    return path.read_bytes()


def _kernels(root: Path) -> Iterator[Kernel]:
    for image in sorted(root.glob("boot/vmlinuz-*"), reverse=True):
        release = image.name.removeprefix("vmlinuz-")
        for base in (root, root / "usr"):
            modules = base / "lib/modules" / release
            kvm = [any(modules.glob(f"kernel/arch/x86/kvm/kvm-{vendor}.ko*")) for vendor in ("amd", "intel")]
            if all(kvm) and (modules / "modules.dep").exists() and os.access(image, os.R_OK):
                yield Kernel(image, release, base)


def _fetch(kept: Path) -> str:
    """Download Debian's kernel to the directory `kept`, which appears only when it is complete; its package."""
    apt_cache, apt_get, dpkg = find_tools(("apt-cache", "apt-get", "dpkg"))
    cure = f"apt-get update, {ELSEWHERE}"
    depends = run_tool([apt_cache, "depends", "linux-image-amd64"], cure=cure)
    packages = [line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line]
    if not packages:
        raise HostError(f"apt knows no linux-image-amd64: {cure}")
    say(f"fetching {packages[0]} for the lab, once")
    with TemporaryDirectory(prefix="fetching-", dir=kept.parent) as scratch:
        # the sandbox user cannot write here, of which apt would warn
        run_tool([apt_get, "-o", "APT::Sandbox::User=root", "download", packages[0]], cwd=Path(scratch), cure=cure)
        root = Path(scratch, "root")
        for package in Path(scratch).glob("*.deb"):
            run_tool([dpkg, "-x", str(package), str(root)], cure=cure)
        for image in root.glob("boot/vmlinuz-*"):
            release = image.name.removeprefix("vmlinuz-")
            base = root if (root / "lib/modules").exists() else root / "usr"
            run_tool([find_tool("depmod"), "-b", str(base), release], cure=cure)
            _prune(Kernel(image, release, base))
        publish(root, kept)
    return packages[0]


def _prune(kernel: Kernel) -> None:
    """Delete the modules that the lab does not load: 400 MB become 20."""
    needed = set(kernel.module_files(SVM_MODULES + VMX_MODULES))
    for module in (kernel.base / "lib/modules" / kernel.release).rglob("*.ko*"):
        if module not in needed:
            module.unlink()


def publish(built: Path, final: Path) -> None:
    """Move what was built to its place in the cache, unless somebody else was quicker."""
    try:
        built.rename(final)
    except OSError:
        if not final.exists():
            raise

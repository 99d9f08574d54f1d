"""What the lab says when this machine lacks something, and that its cache holds whole files only."""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import threading
from pathlib import Path

import pytest
from patience import PATIENCE

from nestvmm.errors import HostError, UsageError
from nestvmm.lab import SvmLab, kernel, vmx
from nestvmm.lab.image import keep, unpack_kernel
from nestvmm.lab.svm import prepare

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "apt-cache": "apt",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "depmod": "kmod",
    "modprobe": "kmod",
    "busybox": "busybox-static",
}
VMX_TOOLS = {"bochs": "bochs", "ldd": "libc-bin"}

FAKES = {
    "apt-cache": "echo '  Depends: linux-image-9.9-test'",
    "apt-get": "touch linux-image-9.9-test_1_amd64.deb",
    "dpkg": """mkdir -p "$3/boot" "$3/lib/modules/9.9-test/kernel/arch/x86/kvm"
        cp "$BZIMAGE" "$3/boot/vmlinuz-9.9-test"
        echo module > "$3/lib/modules/9.9-test/kernel/arch/x86/kvm/kvm-amd.ko"
        echo module > "$3/lib/modules/9.9-test/kernel/arch/x86/kvm/kvm-intel.ko"
        echo other > "$3/lib/modules/9.9-test/kernel/other.ko" """,
    "depmod": 'touch "$2/lib/modules/$3/modules.dep"',
    "modprobe": 'case $6 in kvm-*) echo "insmod $2/lib/modules/$4/kernel/arch/x86/kvm/$6.ko nested=1";; esac',
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with made-up tools that fetch a made-up kernel, an empty cache, and no kernel in /boot."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in TOOLS | VMX_TOOLS:
        script = directory / name
        script.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{FAKES.get(name, 'exit 1')}\n")
        script.chmod(0o755)
    bzimage = bytearray(0x1000)
    bzimage[0x202:0x206] = b"HdrS"
    (tmp_path / "bzImage").write_bytes(bzimage)
    monkeypatch.setenv("BZIMAGE", str(tmp_path / "bzImage"))
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr("nestvmm.lab.tools.SBIN", str(directory))
    monkeypatch.setenv("NESTVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NESTVMM_LAB_KERNEL", raising=False)
    found = kernel._kernels
    monkeypatch.setattr(kernel, "_kernels", lambda root: found(root) if root != Path("/") else iter(()))
    return directory


@pytest.mark.parametrize("name", TOOLS)
def test_a_missing_tool_is_named_with_its_package(tools: Path, name: str) -> None:
    (tools / name).unlink()
    with pytest.raises(
        HostError, match=rf"the lab needs {name}, which is not installed: apt-get install {TOOLS[name]}$"
    ):
        prepare()


@pytest.mark.parametrize(
    ("name", "package"),
    [(name, (TOOLS | VMX_TOOLS)[name]) for name in ("bochs", "setpriv", "busybox", "modprobe", "ldd")],
)
def test_a_missing_tool_of_the_vmx_lab_is_named_with_its_package(tools: Path, name: str, package: str) -> None:
    (tools / name).unlink()
    with pytest.raises(HostError, match=rf"the lab needs {name}, which is not installed: apt-get install {package}$"):
        vmx.prepare()


def test_missing_firmware_or_display_is_named_with_its_package(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmx, "FIRMWARE", {Path("/no/BIOS"): "bochsbios"})
    with pytest.raises(HostError, match=r"the lab needs /no/BIOS, which is not there: apt-get install bochsbios$"):
        vmx.check()
    monkeypatch.setattr(vmx, "FIRMWARE", {})
    monkeypatch.setattr(vmx, "DISPLAYS", "no/such/*.so")
    with pytest.raises(HostError, match=r"terminal display, which is not installed: apt-get install bochs-term$"):
        vmx.check()


def test_the_fetched_kernel_is_kept_without_needless_modules(tools: Path, tmp_path: Path) -> None:
    found = kernel.find_kernel()
    assert found.release == "9.9-test"
    assert found.image.read_bytes() == (tmp_path / "bzImage").read_bytes()
    assert sorted(path.name for path in found.base.rglob("*.ko")) == ["kvm-amd.ko", "kvm-intel.ko"]
    (tools / "apt-get").unlink()
    assert kernel.find_kernel() == found
    assert [path.name for path in (tmp_path / "cache/lab").iterdir()] == [found.base.name]


def test_a_download_that_fails_says_why_and_leaves_nothing(tools: Path, tmp_path: Path) -> None:
    (tools / "apt-get").write_text("#!/bin/sh\necho 'E: Could not resolve host' >&2; exit 100\n")
    with pytest.raises(HostError) as caught:
        kernel.find_kernel()
    assert str(caught.value) == (
        "apt-get failed: E: Could not resolve host: apt-get update, "
        "or set NESTVMM_LAB_KERNEL to a directory that holds an unpacked kernel package"
    )
    assert list((tmp_path / "cache/lab").iterdir()) == []


def test_apt_without_lists_says_so(tools: Path) -> None:
    (tools / "apt-cache").write_text("#!/bin/sh\n")
    with pytest.raises(HostError, match=r"apt knows no linux-image-amd64: apt-get update, or set NESTVMM_LAB_KERNEL"):
        kernel.find_kernel()


def test_a_package_without_what_the_labs_load_is_refused(tools: Path) -> None:
    script = (tools / "dpkg").read_text()
    (tools / "dpkg").write_text(script.replace("kvm-intel.ko", "kvm-other.ko"))
    with pytest.raises(HostError, match=r"linux-image-9\.9-test lacks kvm-amd or kvm-intel: set NESTVMM_LAB_KERNEL"):
        kernel.find_kernel()


def test_the_override_is_used_as_it_is(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kernel.find_kernel()
    mine = shutil.copytree(kept.base, tmp_path / "mine")
    monkeypatch.setenv("NESTVMM_LAB_KERNEL", str(mine))
    assert kernel.find_kernel() == kernel.Kernel(mine / "boot/vmlinuz-9.9-test", "9.9-test", mine)


def test_an_override_without_a_kernel_is_refused(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTVMM_LAB_KERNEL", str(tools))
    with pytest.raises(HostError, match=r"NESTVMM_LAB_KERNEL=.*/bin holds no kernel: expected boot/vmlinuz-RELEASE"):
        kernel.find_kernel()


def test_a_kernel_that_is_no_bzimage_is_refused(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(b"MZ")
    with pytest.raises(HostError, match=r"vmlinuz-9\.9-test is not a bzImage"):
        unpack_kernel(kernel.find_kernel())


def test_a_damaged_kernel_is_refused(tools: Path, tmp_path: Path) -> None:
    bzimage = bytearray((tmp_path / "bzImage").read_bytes())
    struct.pack_into("<II", bzimage, 0x248, 0x100, 0x200)  # with setup_sects 0 the payload begins 512 bytes later
    bzimage[0x300:0x306] = b"\xfd7zXZ\0"
    (tmp_path / "bzImage").write_bytes(bzimage)
    with pytest.raises(HostError, match=r"vmlinuz-9\.9-test is damaged"):
        unpack_kernel(kernel.find_kernel())
    assert not list((tmp_path / "cache/lab").glob("vmlinux*"))


def test_a_kernel_is_unpacked_once(tools: Path, tmp_path: Path) -> None:
    bzimage = bytearray((tmp_path / "bzImage").read_bytes())
    packed = lzma.compress(b"\x7fELF, or so")
    struct.pack_into("<II", bzimage, 0x248, 0x100, len(packed) + 4)
    bzimage[0x300 : 0x300 + len(packed)] = packed
    (tmp_path / "bzImage").write_bytes(bzimage)
    unpacked = unpack_kernel(kernel.find_kernel())
    assert unpacked.read_bytes() == b"\x7fELF, or so"
    assert unpack_kernel(kernel.find_kernel()) == unpacked


def test_a_cache_that_cannot_be_made_says_so(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NESTVMM_CACHE", str(tmp_path / "file"))
    with pytest.raises(HostError, match="set NESTVMM_CACHE to a writable place"):
        kernel.find_kernel()


def test_two_builds_at_oncekeep_one_whole_file(tools: Path, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    def build() -> bytes:
        both.wait()
        return b"whole"

    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(keep("thing", b"key", build))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 2
    assert set(paths) == set((tmp_path / "cache/lab").iterdir())
    assert paths[0].read_bytes() == b"whole"


def test_what_was_not_used_for_a_week_is_deleted(tools: Path, tmp_path: Path) -> None:
    old, used = (keep("thing", key, lambda: b"whole") for key in (b"old", b"used"))
    other = keep("other", b"old", lambda: b"whole")
    for path in (old, used, other):
        os.utime(path, (1, 1))
    assert keep("thing", b"used", lambda: b"") == used
    new = keep("thing", b"new", lambda: b"whole")
    assert set((tmp_path / "cache/lab").iterdir()) == {used, other, new}


def test_two_fetches_at_oncekeep_one_whole_kernel(tools: Path, tmp_path: Path) -> None:
    built = [tmp_path / name for name in ("one", "two")]
    for path in built:
        path.mkdir()
        (path / "whole").write_text(path.name)
        kernel.publish(path, tmp_path / "final")
    assert (tmp_path / "final/whole").read_text() == "one"


def test_icount_with_two_cpus_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot have 2 CPUs under icount"):
        SvmLab(icount=True, cpus=2)

"""The VMX lab's files: an initramfs of what rarely changes, which is kept, and one of the project, made for each lab.

All files are in memory, by their paths on this machine. Reading them from an emulated disk would need drivers, whose
loading alone takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nestvmm
from nestvmm.errors import UsageError
from nestvmm.lab import agent
from nestvmm.lab.carry import Luggage, compile_package, pack_project, pack_python
from nestvmm.lab.image import keep
from nestvmm.lab.initramfs import archive, busybox, character_device, directory, executable, file
from nestvmm.lab.kernel import VMX_MODULES, Kernel
from nestvmm.lab.modules import module_nodes, start_script

__all__ = ["base_initramfs", "project_initramfs"]

INIT = f"""#!/lab/busybox sh
# The kernel hands NESTVMM_PYTHON over from its command line. A failure here ends in a panic, which the lab looks for.
{start_script("lab/busybox", "lab/modules")}\
$bb mkdir -p /bin /sbin /usr/bin /usr/sbin /tmp /var/tmp /run /root /dev/pts /dev/shm
$bb chmod 1777 /tmp /var/tmp
$bb --install -s 2>/dev/null || :
$bb mount -t cgroup2 cgroup /sys/fs/cgroup
$bb mkdir /sys/fs/cgroup/command
$bb mount -t devpts devpts /dev/pts
$bb mount -t tmpfs shm /dev/shm
$bb ip link set lo up
$bb hostname vmx-lab
$bb stty -F /dev/ttyS1 115200 raw -echo
"$NESTVMM_PYTHON" -I -S -B /lab/agent.py /dev/ttyS1 /sys/fs/cgroup/command
$bb poweroff -f
"""

SIGNED = b"~Module signature appended~\n"
SIGNATURE_INFO = 12  # bytes of struct module_signature, whose last four are the signature's length (big endian)


def base_initramfs(kernel: Kernel) -> tuple[Luggage, Path]:
    """Python with its packages, busybox and modules: what is in it, and the kept archive."""
    luggage = pack_python()
    luggage.add(kernel.image)
    modules = module_nodes(kernel, VMX_MODULES, "lab/modules", _lean)
    mount_points = {name: directory() for name in ("proc", "sys", "dev")}
    own = {**mount_points, "dev/console": character_device(5, 1), "lab/busybox": busybox(), **modules}
    key = luggage.digest().encode() + archive(own)
    return luggage, keep("vmx-base", key, lambda: archive({**luggage.nodes(), **own}))


def project_initramfs(base: Luggage, project: Path, extra: Sequence[Path]) -> tuple[bytes, list[str]]:
    """The init, nestvmm, a project's directory and `extra`, without what is in `base`; and messages for the user.

    Raises:
        UsageError: one of `extra` is not there.
    """
    messages = []
    luggage = Luggage()
    package = Path(nestvmm.__file__).parent
    compile_package(package)
    luggage.add_tree(package)
    luggage.add(project)
    if not pack_project(luggage, project):
        messages.append(f"{project} holds too much for the VMX lab, where it is empty: name what is needed by --with")
    for path in extra:
        try:
            luggage.add_tree(path)
        except OSError as error:
            raise UsageError(f"the VMX lab cannot take along {path}: {error.strerror}") from None
    luggage.add_libraries()
    luggage.leave_out(base)
    own = {"init": executable(INIT.encode()), "lab/agent.py": file(Path(agent.__file__).read_bytes())}
    return archive({**luggage.nodes(), **own}), messages


def _lean(module: bytes) -> bytes:
    """A module without its signature and, by another name, its type information, both of which take long to check."""
    if module.endswith(SIGNED):
        end = len(module) - len(SIGNED)
        length = int.from_bytes(module[end - 4 : end], "big")
        module = module[: end - SIGNATURE_INFO - length]
    return module.replace(b"\0.BTF\0", b"\0.btf\0")

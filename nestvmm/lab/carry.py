"""What a lab that does not see this machine's files takes along: chosen files, each by its own path.

A path through symbolic links brings the links and what they lead to, so that it means the same in the lab. Compiled
Python files come along, and times of change with them, so that nothing is compiled anew there.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

from nestvmm.errors import HostError
from nestvmm.lab.initramfs import Node
from nestvmm.lab.tools import find_tool

__all__ = ["PACKAGES", "Luggage", "pack_directory", "pack_python"]

PACKAGES = ("cffi", "iced-x86", "pyelftools", "click", "rich", "pytest", "hypothesis")
"""The distributions that nestvmm and its tests import; those that they need come with them."""

NOT_CARRIED = {"build", "dist", "node_modules"}  # directories of a project, beside hidden ones and virtual environments
NOT_IN_LIBRARY = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages"}
COMPILED = re.compile(rf"\.{sys.implementation.cache_tag}(-pytest-[^/]*)?\.pyc$")
DIRECTORY_MAX = 64 << 20  # bytes
DIRECTORY_FILES_MAX = 10_000


class Luggage:
    """Files, directories and links, by their absolute paths."""

    def __init__(self) -> None:
        self._found: dict[str, os.stat_result] = {}

    def add(self, path: str | os.PathLike[str]) -> str:
        """Add what is at `path`, the directories above it and the links on the way; its path without links.

        Raises:
            OSError: there is no such thing.
        """
        at, ahead = "/", _components(os.path.abspath(path))
        while ahead:
            component = ahead.pop()
            if component == "..":
                at = os.path.dirname(at)
                continue
            step = os.path.join(at, component)
            status = self._found.get(step) or os.lstat(step)
            self._found[step] = status
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(step)
                at = "/" if target.startswith("/") else at
                ahead += _components(target)
            else:
                at = step
        return at

    def add_tree(
        self, root: str | os.PathLike[str], skip: Callable[[str, str], bool] = lambda above, name: False
    ) -> None:
        """Add a directory and what is in it, or a file; `skip` is asked about each directory in it (where, name)."""
        real = self.add(root)
        for path in walk(real, skip):
            self.add(path)

    def remove(self, other: Luggage) -> None:
        """Leave out what is in `other`."""
        for path in other._found.keys() & self._found.keys():
            del self._found[path]

    def files(self) -> Iterator[str]:
        """The paths of the files."""
        return (path for path, status in self._found.items() if stat.S_ISREG(status.st_mode))

    def add_libraries(self) -> None:
        """Add the shared libraries that programs and libraries in here need."""
        binaries = [path for path in self.files() if _is_dynamic(path)]
        if binaries:
            # it complains of what is no program of this machine, and of libraries that are not there: so does the lab
            told = subprocess.run(
                [find_tool("ldd", "libc-bin"), *binaries], capture_output=True, text=True, check=False
            )
            for path in set(re.findall(r"(/\S+) \(0x", told.stdout)):
                self.add(path)

    def digest(self) -> str:
        """Changes with every path, size, mode and time of change."""
        lines = [f"{path}\0{s.st_mode}\0{s.st_size}\0{s.st_mtime_ns}" for path, s in sorted(self._found.items())]
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

    def nodes(self) -> dict[str, Node]:
        """What an archive takes, directories before what is in them. A file that has vanished is left out."""
        nodes = {}
        for path, status in sorted(self._found.items()):
            try:
                nodes[path[1:]] = _node(path, status)
            except FileNotFoundError:
                continue
        return nodes


def pack_python() -> Luggage:
    """This interpreter, its standard library, PACKAGES with what they need, and the libraries of all of them."""
    luggage = Luggage()
    for name in ("/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/sbin", "/etc/ld.so.cache", "/etc/ld.so.conf"):
        if os.path.lexists(name):
            luggage.add(name)
    luggage.add(sys.executable)
    if sys.prefix != sys.base_prefix:
        luggage.add(Path(sys.prefix, "pyvenv.cfg"))
    for name in ("stdlib", "platstdlib"):
        luggage.add_tree(
            sysconfig.get_path(name), lambda above, name: name in NOT_IN_LIBRARY or name.startswith("config-")
        )
    for name in ("purelib", "platlib"):
        for path in Path(sysconfig.get_path(name)).glob("*.pth"):
            luggage.add(path)
        for path in Path(sysconfig.get_path(name)).glob("__editable__*.py"):
            luggage.add(path)
    for distribution in _with_requirements(("nestvmm", *PACKAGES)):
        for file in distribution.files or ():
            path = os.path.abspath(str(distribution.locate_file(file)))
            if os.path.lexists(path) and _wanted(path):
                luggage.add(path)
    luggage.add_libraries()
    return luggage


def pack_directory(luggage: Luggage, root: Path) -> bool:
    """Add a project's directory without what is made anew or version control's; false when it holds too much."""
    size = count = 0
    paths = []
    for path in walk(os.path.realpath(root), _skip_in_project):
        size += os.lstat(path).st_size
        count += 1
        if size > DIRECTORY_MAX or count > DIRECTORY_FILES_MAX:
            return False
        paths.append(path)
    for path in paths:
        luggage.add(path)
    return True


def walk(root: str, skip: Callable[[str, str], bool]) -> Iterator[str]:
    """The files and links in a directory and those in it, whose links lead somewhere."""
    for above, directories, files in os.walk(root):
        directories[:] = sorted(name for name in directories if not skip(above, name))
        links = [name for name in directories if os.path.islink(os.path.join(above, name))]
        for name in sorted(files) + links:
            path = os.path.join(above, name)
            mode = os.lstat(path).st_mode
            if (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) and os.path.exists(path) and _wanted(path):
                yield path


def _skip_in_project(above: str, name: str) -> bool:
    return name in NOT_CARRIED or name.startswith(".") or os.path.exists(os.path.join(above, name, "pyvenv.cfg"))


def _wanted(path: str) -> bool:
    """Not another Python's compiled file, nor a library to link with."""
    return not path.endswith(".a") and ("/__pycache__/" not in path or COMPILED.search(path) is not None)


def _with_requirements(names: Iterable[str]) -> Iterator[metadata.Distribution]:
    """The installed ones of these distributions and, once each, of those that they need."""
    ahead, seen = list(names), set()
    while ahead:
        name = re.sub(r"[-_.]+", "-", ahead.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # a requirement of other systems
            continue
        yield distribution
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement and (match := re.match(r"[A-Za-z0-9._-]+", requirement)):
                ahead.append(match[0])


def _components(path: str) -> list[str]:
    """The path's components, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _is_dynamic(path: str) -> bool:
    if not (os.access(path, os.X_OK) or ".so" in os.path.basename(path)):
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _node(path: str, status: os.stat_result) -> Node:
    changed = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        return Node(status.st_mode, changed=changed)
    if stat.S_ISLNK(status.st_mode):
        return Node(status.st_mode, os.fsencode(os.readlink(path)), changed=changed)
    try:
        return Node(status.st_mode, Path(path).read_bytes(), changed=changed)
    except PermissionError as error:
        raise HostError(f"the VMX lab cannot take along {path}: {error.strerror}") from None

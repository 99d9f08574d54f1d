"""What a lab that does not see this machine's files takes along: chosen files, each by its own path.

A path through symbolic links brings the links and what they lead to, so that it means the same in the lab. Compiled
Python files come along, and times of change with them, so that nothing is compiled anew there.
"""

from __future__ import annotations

import compileall
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

__all__ = ["PACKAGES", "Luggage", "compile_package", "pack_project", "pack_python"]

PACKAGES = ("cffi", "iced-x86", "pyelftools", "click", "rich", "pytest", "hypothesis")
"""The distributions that nestvmm and its tests import; those that they need come with them."""

PLACES = ("/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/sbin", "/etc/ld.so.cache")
NOT_OF_LIBRARY = re.compile(r"test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|config-.*")
NOT_OF_PROJECT = re.compile(r"\..*|build|dist|node_modules")
COMPILED = re.compile(rf"\.{sys.implementation.cache_tag}(-pytest-[^/]*)?\.pyc")
UNUSED_LIBRARY = re.compile(r"(_tkinter|_test\w*|_xx\w*|xx\w*)\..*\.so|.*\.a")
LIBRARY = re.compile(r".*\.so(\.[0-9.]+)?")
PROJECT_MAX = 64 << 20  # bytes
PROJECT_FILES_MAX = 10_000


class Luggage:
    """Files, directories and links, by their absolute paths."""

    def __init__(self) -> None:
        self._found: dict[Path, os.stat_result] = {}

    def __contains__(self, path: object) -> bool:
        return path in self._found

    def add(self, path: Path) -> Path:
        """Add what is at `path`, the directories above it and the links on the way; its path without links.

        Raises:
            OSError: there is no such thing.
        """
        at, ahead = Path("/"), list(reversed(path.absolute().parts[1:]))
        while ahead:
            name = ahead.pop()
            if name == "..":
                at = at.parent
                continue
            step = at / name
            status = self._found.get(step) or step.lstat()
            self._found[step] = status
            if not stat.S_ISLNK(status.st_mode):
                at = step
                continue
            target = step.readlink()
            at = Path("/") if target.is_absolute() else at
            ahead += reversed(target.relative_to("/").parts if target.is_absolute() else target.parts)
        return at

    def add_tree(self, root: Path, skip: re.Pattern[str] | None = None) -> None:
        """Add a file, or a directory and what is in it but for directories whose names match `skip`."""
        real = self.add(root)
        if real.is_dir():
            for path in _walk(real, lambda directory: bool(skip and skip.fullmatch(directory.name))):
                self.add(path)

    def add_libraries(self) -> None:
        """Add the shared libraries that programs and libraries in here need."""
        binaries = [str(path) for path, status in self._found.items() if _is_binary(path, status)]
        if binaries:
            # it complains of files for other machines and of libraries that are missing; so will the lab, if it matters
            ldd = [find_tool("ldd"), *binaries]
            told = subprocess.run(ldd, capture_output=True, text=True, check=False).stdout
            for path in sorted(set(re.findall(r"(/\S+) \(0x", told))):
                self.add(Path(path))

    def leave_out(self, other: Luggage) -> None:
        """Drop what is in `other`."""
        for path in other._found.keys() & self._found.keys():
            del self._found[path]

    def digest(self) -> str:
        """Changes with every path and mode, and with every file's size and time of change."""
        lines = []
        for path, status in sorted(self._found.items()):
            is_directory = stat.S_ISDIR(status.st_mode)  # whose own change with files that are not taken along
            change = () if is_directory else (status.st_size, status.st_mtime_ns)
            lines.append(f"{path}\0{status.st_mode}\0{change}")
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

    def nodes(self) -> dict[str, Node]:
        """What an archive takes, directories before what is in them. A file that has vanished is left out."""
        nodes = {}
        for path, status in sorted(self._found.items()):
            try:
                nodes[str(path)[1:]] = Node(status.st_mode, _contents(path, status), changed=int(status.st_mtime))
            except FileNotFoundError:
                continue
        return nodes


def pack_python() -> Luggage:
    """This interpreter, its standard library, PACKAGES with what they need, and the libraries of all of them."""
    luggage = Luggage()
    for place in map(Path, PLACES):
        if place.exists():
            luggage.add(place)
    luggage.add(Path(sys.executable))
    if sys.prefix != sys.base_prefix:
        luggage.add(Path(sys.prefix, "pyvenv.cfg"))
    for name in ("stdlib", "platstdlib"):
        luggage.add_tree(Path(sysconfig.get_path(name)), NOT_OF_LIBRARY)
    for distribution in _with_requirements(("nestvmm", *PACKAGES)):
        files = {Path(os.path.normpath(str(distribution.locate_file(file)))) for file in distribution.files or ()}
        compiled = {path.parent / "__pycache__" for path in files if path.suffix == ".py"}
        # beside what was installed: pytest compiles its plugins its own way
        files |= {path for directory in compiled if directory.is_dir() for path in directory.iterdir()}
        for path in files:
            if path.is_file() and _is_used(path):
                luggage.add(path)
    luggage.add_libraries()
    return luggage


def pack_project(luggage: Luggage, root: Path) -> bool:
    """Add a directory without what is hidden or made anew; false when it holds too much, and then nothing of it."""
    size, paths = 0, []
    for path in _walk(root.resolve(), _is_no_source):
        size += path.lstat().st_size
        paths.append(path)
        if size > PROJECT_MAX or len(paths) > PROJECT_FILES_MAX:
            return False
    for path in paths:
        luggage.add(path)
    return True


def compile_package(root: Path) -> None:
    """Compile a package's modules here where that is quick, unless it is done or they cannot be written."""
    compileall.compile_dir(root, quiet=2)


def _walk(root: Path, skip: Callable[[Path], bool]) -> Iterator[Path]:
    """The used files in a directory and those in it, and the links that lead somewhere."""
    for above, directories, files in os.walk(root):
        directories[:] = sorted(name for name in directories if not skip(Path(above, name)))
        for path in (Path(above, name) for name in sorted({*files, *directories})):
            mode = path.lstat().st_mode
            if (stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and path.exists())) and _is_used(path):
                yield path


def _is_no_source(directory: Path) -> bool:
    return bool(NOT_OF_PROJECT.fullmatch(directory.name)) or (directory / "pyvenv.cfg").exists()


def _is_used(path: Path) -> bool:
    """Not another Python's compiled file, nor a library that only the interpreter's own tests or linkers want."""
    if path.parent.name == "__pycache__":
        return COMPILED.search(path.name) is not None
    return not UNUSED_LIBRARY.fullmatch(path.name)


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


def _is_binary(path: Path, status: os.stat_result) -> bool:
    """Whether it is a program or library in ELF."""
    if not stat.S_ISREG(status.st_mode) or not (status.st_mode & stat.S_IXUSR or LIBRARY.fullmatch(path.name)):
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _contents(path: Path, status: os.stat_result) -> bytes:
    if stat.S_ISLNK(status.st_mode):
        return os.fsencode(path.readlink())
    if not stat.S_ISREG(status.st_mode):
        return b""
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise HostError(f"the VMX lab cannot take along {path}: {error.strerror}") from None

"""Builds `nestvmm._native`, the one cffi extension: the KVM API and the hot path; and `nestvmm._dispatch` beside it.

`pip install` runs `BuildNative` (pyproject.toml, tool.setuptools.cmdclass). The declarations that Python sees are the
headers themselves: every struct, enum and prototype has one source. `kvm.cdef` declares what <linux/kvm.h> defines.
What makes Python objects is in `python/`, and an extension by the API of the interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cffi import FFI
from setuptools import Extension
from setuptools.command.build_ext import build_ext

NATIVE = Path(__file__).resolve().parent
PYTHON = NATIVE / "python"
SWITCHER = NATIVE / "switcher"
BOOT_SECTOR = NATIVE / "lab" / "boot_sector.S"

# Headers that Python sees, in the order of their dependencies.
HEADERS = (
    "reason.h",
    "event.h",
    "table.h",
    "counters.h",
    "trace.h",
    "trace_writer.h",
    "vcpu.h",
    "direct.h",
    "paging.h",
    "fetch.h",
    "trap_flag.h",
    "undefined.h",
    "completion.h",
    "switcher/mailbox.h",
    "exit_row.h",
    "svm_exits.h",
    "vmx_exits.h",
    "shadow.h",
    "exception.h",
    "pending.h",
    "switched.h",
    "svm.h",
    "svm_rules.h",
    "nested_vmx.h",
    "nested.h",
    "switcher/vmx_block.h",
    "vmcs.h",
    "vmx.h",
    "cpuid_server.h",
    "uart.h",
    "debugcon.h",
    "ignore.h",
    "pci_address.h",
    "instruction.h",
    "length.h",
    "bench.h",
)


def relative(paths: Iterable[Path]) -> list[str]:
    """Paths as an extension has them: of the checkout, in order."""
    return sorted(str(path.relative_to(NATIVE.parent)) for path in paths)


# -flto: the path of an exit goes through five files, and is one function then
COMMON: dict[str, Any] = {
    "depends": relative(NATIVE.rglob("*.h")),
    "include_dirs": relative([NATIVE]),
    "extra_compile_args": ["-std=gnu11", "-O2", "-flto", "-Wall", "-Wextra", "-fvisibility=hidden"],
    "extra_link_args": ["-O2", "-flto"],
}


def declarations() -> str:
    """The text for `FFI.cdef`: kvm.cdef, then the headers without what only the C preprocessor reads."""
    texts = [(NATIVE / "kvm.cdef").read_text()]
    for header in HEADERS:
        text = (NATIVE / header).read_text()
        text = re.sub(r"^#(?!define NV_\w+ (0x)?[0-9a-fA-F]+(\s+/\*.*\*/)?$).*\n", "", text, flags=re.MULTILINE)
        texts.append(text)
    return "\n".join(texts)


def builder() -> FFI:
    """The cffi builder of the extension."""
    ffi = FFI()
    ffi.cdef(declarations())
    prelude = (NATIVE / "kvm_prelude.h").read_text()
    ffi.set_source(
        "nestvmm._native",
        prelude + "".join(f'#include "{header}"\n' for header in HEADERS),
        sources=relative(NATIVE.glob("*.c")),
        **COMMON,
        libraries=["pthread"],
    )
    return ffi


def dispatch() -> Extension:
    """The loop that calls Python handlers: no part of the cffi extension, whose C code knows no interpreter."""
    return Extension("nestvmm._dispatch", relative(PYTHON.glob("*.c")), **COMMON)


def switcher_base() -> str:
    """Where the switcher is linked, from its header."""
    found = re.search(r"^#define NV_SWITCHER_BASE (0x[0-9a-f]+)$", (SWITCHER / "mailbox.h").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{SWITCHER / 'mailbox.h'} does not define NV_SWITCHER_BASE")
    return found[1]


class BuildNative(build_ext):
    """Generates the cffi extension's C source, compiles it with the files of `native/`, and links the flat images."""

    def finalize_options(self) -> None:
        """Put the extensions in the place of those that pyproject.toml only names."""
        self.distribution.ext_modules = [builder().distutils_extension(tmpdir="build/native"), dispatch()]
        super().finalize_options()

    def run(self) -> None:
        """Build the extensions, then the flat images as package data beside what uses them."""
        super().run()
        package = Path(self.get_ext_fullpath("nestvmm._native")).parent
        for source in sorted(SWITCHER.glob("*.S")):
            self._link(source, package / "engines" / f"switcher_{source.stem}.bin", switcher_base())
        self._link(BOOT_SECTOR, package / "lab" / "boot_sector.bin", "0x7c00")

    def _link(self, source: Path, image: Path, base: str) -> None:
        """Make one flat image that runs at `base`."""
        image.parent.mkdir(parents=True, exist_ok=True)
        link = ("--oformat=binary", f"-Ttext={base}", "-e,start", "--build-id=none")
        flags = ["-nostdlib", "-static", "-no-pie", f"-I{source.parent}", *(f"-Wl,{option}" for option in link)]
        self.spawn(["gcc", *flags, "-o", str(image), str(source)])

"""From what a user writes to a hypervisor object."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, NoneType
from typing import get_args

from nestvmm.errors import UsageError
from nestvmm.hypervisors.base import Hypervisor
from nestvmm.hypervisors.blame import FAULTS, blame

__all__ = ["STOCK", "find_hypervisor", "make_hypervisor"]

#: The stock hypervisors by the name that `--level` takes.
STOCK = {
    "console": "nestvmm.hypervisors.console:Console",
    "cpuid-policy": "nestvmm.hypervisors.cpuid_policy:CpuidPolicy",
    "debug-console": "nestvmm.hypervisors.debug_console:DebugConsole",
    "logger": "nestvmm.hypervisors.logger:Logger",
    "msr-policy": "nestvmm.hypervisors.msr_policy:MsrPolicy",
}

# What an option can be, in words.
_TYPES: dict[object, str] = {int: "a number", str: "a string", bool: "true or false", NoneType: ""}


def find_hypervisor(name: str) -> type[Hypervisor]:
    """The class that `console`, `package.module:Class` or `path/file.py:Class` names; raises UsageError."""
    module_name, colon, class_name = STOCK.get(name, name).rpartition(":")
    if not colon or not module_name or not class_name.isidentifier():
        raise UsageError(f"hypervisor {name!r}: expected one of {', '.join(STOCK)}, or module:Class, or file.py:Class")
    module = _load_file(Path(module_name), name) if module_name.endswith(".py") else _load_module(module_name, name)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Hypervisor)):
        raise UsageError(f"hypervisor {name!r}: {module_name} has no class {class_name} derived from Hypervisor")
    return found


def make_hypervisor(name: str, options: Mapping[str, object], level: int) -> Hypervisor:
    """The hypervisor object of level `level`.

    Raises UsageError when the name or the options are wrong, HypervisorError when its constructor raises.
    """
    found = find_hypervisor(name)
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        known = ", ".join(inspect.signature(found).parameters) or "none"
        raise UsageError(f"L{level} {name}: {error}; its options are: {known}") from None
    _check_types(found, options, f"L{level} {name}")
    try:
        return found(**options)
    except UsageError as error:
        raise UsageError(f"L{level} {name}: {error}") from None
    except FAULTS as error:
        raise blame(level, name, "in its constructor", error) from error


def _check_types(found: type[Hypervisor], options: Mapping[str, object], who: str) -> None:
    """Raises UsageError for an option whose type is not that of its parameter, where this has one of _TYPES."""
    try:
        parameters = inspect.signature(found, eval_str=True).parameters
    except (NameError, TypeError, SyntaxError):
        return
    for name, value in options.items():
        wanted = parameters[name].annotation if name in parameters else None
        classes = get_args(wanted) or (wanted,)
        # a bool is an int to Python, and not to a user
        if set(classes) <= _TYPES.keys() and type(value) not in classes:
            names = " or ".join(_TYPES[one] for one in classes if one is not NoneType)
            raise UsageError(f"{who}: option {name} takes {names}, not {value!r:.60}")


def _load_module(module_name: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except FAULTS as error:
        raise UsageError(
            f"hypervisor {name!r}: cannot import {module_name}: {type(error).__name__}: {error}"
        ) from error


def _load_file(path: Path, name: str) -> ModuleType:
    module_name = f"nestvmm_hypervisor_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"hypervisor {name!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise UsageError(f"hypervisor {name!r}: {path}: {error.strerror}") from None
    except FAULTS as error:
        raise UsageError(f"hypervisor {name!r}: {path} raised {type(error).__name__}: {error}") from error
    return module

"""Levels of machine code: images that use SVM or VMX, among Python hypervisors.

Each piece of code that the processor executes is a machine of the engine's (native/nested.h): machine 0 is the lowest
image's, the last one the guest's. The Python hypervisors below a machine's code, down to the next image, are its own:

    L4 guest               machine 1   its own: L3, L2
    L3, L2 Python
    L1 minivisor.elf       machine 0   its own: none

An image finds the one above it, past all Python levels, as nestvmm.loaders.stack says.
"""

from __future__ import annotations

from collections.abc import Sequence

from nestvmm.engines import SvmEngine, VmxEngine, choose_engine
from nestvmm.engines.direct import DirectEngine
from nestvmm.errors import HostError, UsageError
from nestvmm.hypervisors import Hypervisor
from nestvmm.hypervisors.find import make_hypervisor
from nestvmm.hypervisors.image import ImageLevel
from nestvmm.loaders import Stacked, read_file
from nestvmm.nesting.features.request import Request
from nestvmm.nesting.policy import Policy
from nestvmm.nesting.spec import TowerSpec
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope

__all__ = ["check_between", "check_images", "engine_for", "make_levels", "name_of", "stacked"]

# SVM and VMX inject neither; where no exit comes of it, the processor itself starts anew, or is in its management mode
# (AMD APM vol. 2, 15.13; Intel SDM vol. 3, 26.2, 32.14).
_SIGNAL = "a signal to the processor, which is the lowest image's; none can pass it on to its guest"

# What no level above an image can have, and why.
_NOT_ABOVE = {
    ExitReason.SMI: _SIGNAL,
    ExitReason.INIT: _SIGNAL,
    ExitReason.EOI: "the interrupt controller is the lowest image's",
}


def make_levels(spec: TowerSpec) -> list[Hypervisor]:
    """The objects of levels 1 to n-1. Raises UsageError and HypervisorError as make_hypervisor does."""
    return [
        make_hypervisor(level.hypervisor, level.options, number)
        if level.image is None
        else ImageLevel(level.image.name)
        for number, level in enumerate(spec.levels, start=1)
    ]


def name_of(hypervisor: Hypervisor) -> str:
    """What messages and accounts call it: its class, or its file."""
    return hypervisor.name if isinstance(hypervisor, ImageLevel) else type(hypervisor).__name__


def check_images(spec: TowerSpec, wanted: Sequence[Request]) -> None:
    """Raises UsageError for what no tower with these images can be.

    wanted:  what each level, L0 first, is to expose or hide
    """
    lowest = spec.code[0]
    if lowest == spec.height:
        return
    for level in range(lowest, spec.height):
        if wanted[level]:
            raise UsageError(
                f"expose L{level}: {_path(spec, lowest)} at L{lowest} is an image, and what levels above it see is "
                "what its own CPUID and intercepts give; expose and hide below it"
            )
    for key, value in ("initrd", spec.guest.initrd), ("address", spec.guest.address):
        if value is not None:
            raise UsageError(
                f"the guest has {key}, but {_path(spec, spec.code[-2])} at L{spec.code[-2]} loads it: an ELF64 "
                "executable with a command line, and no more"
            )


def check_between(spec: TowerSpec, policy: Policy) -> None:
    """Raises UsageError for what a Python hypervisor above an image cannot do, as the image does it.

    That is: signals to the lowest image's processor, and what belongs to its machine alone.
    """
    lowest = spec.code[0]
    for level, one in enumerate(spec.levels, start=1):
        if level < lowest or one.image is not None:
            continue
        for feature, nesting in policy.nesting.items():
            if nesting < level:
                raise UsageError(
                    f"designate {feature}-instruction=L{nesting}: then L0 does not see the levels above it one by one, "
                    f"but L{level} {one.hypervisor} stands there"
                )
    for claim in policy.claims:
        if claim.level >= lowest and (why := _why_not(claim.scope)):
            raise UsageError(
                f"L{claim.level} {claim.who} wants {claim.scope.reason.label}, but stands above an image: {why}; "
                "only below all images a level can have that"
            )


def _why_not(scope: Scope) -> str | None:
    """Why no level above an image can have such events; None: it can."""
    if scope.reason is ExitReason.MEMORY_FAULT and not scope.is_whole():
        return "the memory is L0's own, and where in the guest's it is nobody knows; claim all addresses"
    return _NOT_ABOVE.get(scope.reason)


def _path(spec: TowerSpec, level: int) -> str:
    return str(spec.levels[level - 1].image)


def engine_for(spec: TowerSpec, reasons: frozenset[ExitReason], machine: str) -> type[DirectEngine]:
    """As choose_engine; below images one that gives them virtualization, or direct, where KVM nests them itself.

    Raises HostError when this host has none, or that engine cannot do it.
    """
    lowest = spec.code[0]
    if lowest == spec.height:
        return choose_engine(spec.engine, reasons, machine)
    above = [(number, one) for number, one in enumerate(spec.levels, start=1) if number > lowest and one.image is None]
    if spec.engine != "auto":
        engine = choose_engine(spec.engine, reasons, machine)
        for number, one in above:
            if not engine.emulates:
                why = f"L{number} {one.hypervisor} stands above an image: only the svm and the vmx engine see its guest"
                raise HostError(why)
        return engine
    for able in (SvmEngine, VmxEngine):
        if able.works_here():
            return able
    needs = f"{SvmEngine.needs}; or {VmxEngine.needs}"
    raise HostError(
        f"L{lowest} {_path(spec, lowest)} is an image, and nobody here gives it SVM or VMX; it needs {needs}; "
        "`nestvmm doctor` says more"
    )


def stacked(spec: TowerSpec) -> list[Stacked]:
    """What lies behind the lowest image: those above it and the guest. Raises UsageError and ImageError."""
    if spec.code[0] == spec.height:
        return []
    above = [(number, spec.levels[number - 1]) for number in spec.code[1:-1]]
    files = [(number, level.image, level.append) for number, level in above]
    files.append((spec.height, spec.guest.kernel, spec.guest.append))
    return [
        Stacked(read_file(str(path), spec.guest.memory), append, f"L{number} {path}") for number, path, append in files
    ]

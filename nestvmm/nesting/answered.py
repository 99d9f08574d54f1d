"""CPUID above an image: what the levels below answered, as Python levels that override `cpuid()` want it seen.

Below all images CPUID is settled before the run. Above one it is what the image's code answers, leaf by leaf: so each
answer is given to `cpuid()` as a list of that one leaf, and what it makes of it goes to its guest.
"""

from __future__ import annotations

from collections.abc import Sequence

from nestvmm.engines import Engine
from nestvmm.hypervisors import Hypervisor
from nestvmm.kvm import CpuidEntry
from nestvmm.nesting.designation import Claim
from nestvmm.nesting.features.exposure import ask_cpuid
from nestvmm.x86.exit_reason import ExitReason
from nestvmm.x86.scope import Scope

__all__ = ["amend_answer", "asking_claims"]

_LOW = 0xFFFFFFFF
_REGISTERS = ("rax", "eax"), ("rbx", "ebx"), ("rcx", "ecx"), ("rdx", "edx")


def asking_claims(engine: Engine, hypervisors: Sequence[Hypervisor], lowest: int) -> list[Claim]:
    """What notes the CPUIDs that overriding levels above the image at level `lowest` have to change."""
    return [
        Claim(level, Scope(ExitReason.CPUID), engine.cpuid_asker(level), type(hypervisor).__name__)
        for level, hypervisor in enumerate(hypervisors, start=1)
        if level > lowest and type(hypervisor).cpuid is not Hypervisor.cpuid
    ]


def amend_answer(engine: Engine, hypervisors: Sequence[Hypervisor], indexed: frozenset[int]) -> None:
    """Gives an answer to the levels that asked for it, the lowest first; the last one's goes to the guest.

    indexed:  the leaves that have subleaves

    Raises HypervisorError for a cpuid() that raises or gives something else.
    """
    levels, leaf, subleaf = engine.answered_cpuid()
    regs = engine.regs()
    values = {name: getattr(regs, register) & _LOW for register, name in _REGISTERS}
    entry = CpuidEntry(leaf, subleaf if leaf in indexed else 0, int(leaf in indexed), **values)
    for level, hypervisor in enumerate(hypervisors, start=1):
        if levels >> level & 1:
            entry = _last(ask_cpuid(level, hypervisor, [entry]), entry)
    engine.change_regs({register: getattr(entry, name) for register, name in _REGISTERS})


def _last(entries: Sequence[CpuidEntry], asked: CpuidEntry) -> CpuidEntry:
    """The last one for the leaf, which may have been added behind the answer; none is a leaf of zeros."""
    found = [one for one in entries if (one.function, one.index) == (asked.function, asked.index)]
    return found[-1] if found else CpuidEntry(asked.function, asked.index, asked.flags)

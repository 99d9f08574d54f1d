"""The second feature set's register: every emulator that L0 has."""

from __future__ import annotations

from nestvmm.nesting.features.emulator import Emulator
from nestvmm.nesting.features.instructions import Crc32, Movbe, Popcnt, Rdpid, Rdrand
from nestvmm.nesting.features.msr_block import MsrBlock

__all__ = ["EMULATORS"]

#: By feature name. A feature of several events, such as SVM (a CPUID bit, MSRs, instructions, state for each level),
#: is one class here.
EMULATORS: dict[str, type[Emulator]] = {
    emulator.feature: emulator for emulator in (Crc32, Movbe, MsrBlock, Popcnt, Rdpid, Rdrand)
}

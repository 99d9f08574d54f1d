"""Features that levels see, whether the hardware has them or L0 emulates them: the second method.

    feature, catalog     what a feature is and how it shows; all that are known by name
    request              what a user wants levels to expose: `Ln:+feature,-feature`
    offer                what L0 has: the first set (hardware and KVM), the second (its emulators)
    exposure             what each level sees, from L0 upward; where a chain breaks
    claims               L0's claims on the events of its emulators
    emulator, registry   an emulator's face, and all of them: `msr_block` and `instructions` (by `decode`)
    report               all of this for people: `nestvmm features`
    cpu                  level n's processor and memory, as an emulator uses them

To add a feature to the second set: a row in the catalogue, an Emulator, a line in the registry.
"""

from nestvmm.nesting.features.catalog import CATALOG
from nestvmm.nesting.features.claims import Refusal, emulated_msrs, emulates_instructions, feature_claims
from nestvmm.nesting.features.cpu import Cpu
from nestvmm.nesting.features.exposure import Exposure, expose
from nestvmm.nesting.features.offer import Offer, make_offer
from nestvmm.nesting.features.request import requests

__all__ = [
    "CATALOG",
    "Cpu",
    "Exposure",
    "Offer",
    "Refusal",
    "emulated_msrs",
    "emulates_instructions",
    "expose",
    "feature_claims",
    "make_offer",
    "requests",
]

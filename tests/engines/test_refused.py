"""State that the processor refuses is refused by name: the run ends with the rules that are broken."""

from __future__ import annotations

from typing import Any

import pytest
from lab_cases import run_cases
from refused_cases import BREAKS

from nestvmm.lab import Lab

RULES = {
    "svm": {
        "cr0-nw": "CR0.NW is set and CR0.CD is clear",
        "cr0-high": "CR0 has bits above 31",
        "cr4-reserved": "CR4 has reserved bits: 0x10000000000",
        "no-pae": "EFER.LME and CR0.PG are set and CR4.PAE is clear",
        "no-pe": "EFER.LME and CR0.PG are set and CR0.PE is clear",
        "cs-l-d": "CS.L and CS.D are both set in long mode",
    },
    "vmx": {
        "cr0-high": "CR0 has bits above 31",
        "cr4-reserved": "CR4 has reserved bits: 0x10000000000",
        "no-pae": "EFER.LMA is set and CR4.PAE is clear",
        "no-pe": "CR0.PG is set and CR0.PE is clear",
        "cs-l-d": "CS.L and CS.D are both set in long mode",
        "no-tr": "TR is unusable",
        "tr-free": "TR's type is 9, no busy TSS's",
        "ss-code": "SS's type is 11, no stack's",
        "no-code": "CS is no present code segment",
    },
}
SOURCES = {"svm": "AMD APM vol. 2, 15.5.1", "vmx": "Intel SDM vol. 3, 27.3.1"}


@pytest.fixture(scope="module")
def found(vendor: str, vendor_lab: Lab) -> dict[str, Any]:
    """All cases, run in one go in the lab."""
    return run_cases(vendor_lab, "engines/refused_cases.py", vendor)


@pytest.mark.parametrize("what", BREAKS)
def test_state_that_no_processor_has(what: str, vendor: str, found: dict[str, Any]) -> None:
    """Each vendor's checks some of it, and lets the rest be: there the guest goes on."""
    if what not in RULES[vendor]:
        assert (found[what]["status"], found[what]["message"]) == (0, "")
        return
    assert found[what]["status"] == 255
    assert found[what]["message"].startswith(
        f"guest at L2 died: the processor refused its state: {RULES[vendor][what]} ({SOURCES[vendor]})\n"
    )

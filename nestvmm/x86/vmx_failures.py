"""What VMX says of an entry that it refused: Intel SDM vol. 3, 31.4 and 27.8."""

from __future__ import annotations

from typing import Final

__all__ = ["vmx_failure"]

# VM-instruction errors.
_ERRORS: Final = {
    4: "VMLAUNCH of a VMCS that is launched",
    5: "VMRESUME of a VMCS that is not launched",
    7: "the VM-execution, VM-exit or VM-entry controls do not agree with each other, or the event to inject is none",
    8: "the host state is not one that an exit can load",
    12: "VMREAD or VMWRITE of a field that this processor does not have",
    13: "VMWRITE of a field that is only for reading",
    26: "an event to inject while MOV SS blocks events",
}
# Basic exit reasons, and exit qualifications of the first.
_REASONS: Final = {
    33: "the guest state is not one that a processor can be in",
    34: "an MSR of the list cannot be loaded",
    41: "a machine check came while it was loaded",
}
_GUEST_STATE: Final = {
    2: "a page-directory-pointer entry of PAE paging is wrong",
    3: "an NMI to inject while blocked by STI",
    4: "the VMCS link pointer is wrong",
}


def vmx_failure(code: int, qualification: int) -> str:
    """What was wrong, in words.

    code:           a VM-instruction error, or the basic exit reason of an entry that failed
    qualification:  the exit qualification
    """
    kind = "exit reason" if code in _REASONS else "VM-instruction error"
    what = _REASONS.get(code) or _ERRORS.get(code) or "unknown"
    if code == 33:
        what = _GUEST_STATE.get(qualification, what)
    return f"{kind} {code}: {what}"

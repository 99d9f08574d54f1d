"""How users write a scope and a designation: `REASON[:QUALIFIER][:r|:w]` and `REASON[:QUALIFIER][:r|:w]=Ln`.

io:0x3f8-0x3ff=L2      ports            msr:0xc0000080=L1   RDMSR and WRMSR
mmio:0xd0000000+0x1000 an area          emulation-failure:0fb8=L3   instructions by their first bytes
hlt=L1                 no qualifier     io:0x64:w=L0        only writes
svm-instruction=L3     with the guest at level 3 or below: the image at level 3 gives SVM to the levels above itself
vmx-instruction=L3     likewise VMX
"""

from __future__ import annotations

import re
from typing import Final

from nestvmm._native import lib
from nestvmm.errors import UsageError
from nestvmm.nesting.designation import QUALIFIER_MAX, Ceiling, Scope
from nestvmm.x86.event import Direction
from nestvmm.x86.exit_reason import REASONS, ExitReason, Qualifier
from nestvmm.x86.instruction import key_range

__all__ = ["HIGHEST", "VIRTUALIZATION", "parse_designation", "parse_scopes"]

# One word for what is two reasons to KVM and VMX.
_ALIASES = {"msr": (ExitReason.RDMSR, ExitReason.WRMSR)}

#: What images give the levels above themselves: the feature, by its instructions' reason.
VIRTUALIZATION: Final = {ExitReason.SVM_INSTRUCTION: "svm", ExitReason.VMX_INSTRUCTION: "vmx"}

_DIRECTIONS = {"r": Direction.READ, "w": Direction.WRITE}
#: The highest qualifier of each kind that has a bound.
HIGHEST = {
    Qualifier.PORT: 0xFFFF,
    Qualifier.MSR: 0xFFFFFFFF,
    Qualifier.PHYSICAL: (1 << 52) - 1,
    Qualifier.VECTOR: 255,
    Qualifier.LEAF: 0xFFFFFFFF,
    Qualifier.CONTROL: 15,
    Qualifier.DEBUG: 15,
    Qualifier.TABLE: 3,
    Qualifier.EXTENDED: 0xFFFFFFFF,
    Qualifier.COUNTER: 0xFFFFFFFF,
    Qualifier.SELECTOR: 0xFFFF,
    Qualifier.OFFSET: 0xFFF,
}


def parse_designation(text: str, levels: int) -> list[Ceiling]:
    """The ceilings of one `--designate` option for a tower whose guest is level `levels`.

    Raises UsageError: unknown reason, bad qualifier, a level that is not a hypervisor's. SVM's and VMX's
    instructions may go to level `levels` or one above it, which is a hypervisor if the image there is one.
    """
    scope, equals, level = text.rpartition("=")
    match = re.fullmatch(r"[lL](\d{1,3})", level)
    if not equals or not match:
        raise UsageError(f"designation {text!r}: expected REASON[:QUALIFIER]=Ln, such as io:0x3f8-0x3ff=L2")
    number = int(match[1])
    scopes = parse_scopes(scope)
    if number >= levels:
        _refuse_images(text, scopes[0], number, levels)
    return [Ceiling(number, one) for one in scopes]


def _refuse_images(text: str, scope: Scope, number: int, levels: int) -> None:
    """Raises UsageError for what a level of machine code, or nobody, at level `number` cannot be given."""
    if scope.reason not in VIRTUALIZATION:
        highest = "L0 only" if levels == 1 else f"L0 to L{levels - 1}"
        raise UsageError(f"designation {text!r}: L{number} is no hypervisor of this tower; it has {highest}")
    if scope != Scope(scope.reason):
        raise UsageError(
            f"designation {text!r}: L{number} is an image, which takes all of {VIRTUALIZATION[scope.reason].upper()}; "
            f"write {scope.reason.label}=L{number}"
        )
    highest_image = levels + lib.NV_NESTED_DEPTH - 2
    if number > highest_image:
        raise UsageError(
            f"designation {text!r}: L0 runs guests of images up to L{highest_image}, and so of none at L{number}"
        )


def parse_scopes(text: str) -> list[Scope]:
    """The scopes that `REASON[:QUALIFIER][:r|:w]` names; raises UsageError."""
    name, *rest = text.split(":")
    reasons = _reasons(name, text)
    direction = None
    if rest and rest[-1] in _DIRECTIONS:
        direction = _DIRECTIONS[rest.pop()]
    if len(rest) > 1:
        raise UsageError(f"designation {text!r}: too many colons")
    scopes = []
    for reason in reasons:
        first, last = _range(rest[0], reason, text) if rest and rest[0] != "*" else (0, QUALIFIER_MAX)
        scopes.append(Scope(reason, first, last, direction))
    return scopes


def _reasons(name: str, text: str) -> tuple[ExitReason, ...]:
    if name in _ALIASES:
        return _ALIASES[name]
    try:
        return (ExitReason.from_label(name),)
    except KeyError:
        raise UsageError(f"designation {text!r}: unknown exit reason {name!r}; `nestvmm reasons` lists them") from None


def _range(text: str, reason: ExitReason, whole: str) -> tuple[int, int]:
    kind = REASONS[reason].qualifier
    if kind is Qualifier.NONE:
        raise UsageError(f"designation {whole!r}: {reason.label} takes no qualifier")
    if kind is Qualifier.INSTRUCTION:
        return _instruction(text, whole)
    match = re.fullmatch(r"(0x[0-9a-fA-F]{1,16}|\d{1,20})(?:([-+])(0x[0-9a-fA-F]{1,16}|\d{1,20}))?", text)
    if not match:
        raise UsageError(f"designation {whole!r}: expected a {kind.value}, FIRST-LAST or FIRST+COUNT, not {text!r}")
    first = _number(match[1])
    last = first if match[3] is None else _number(match[3]) if match[2] == "-" else first + _number(match[3]) - 1
    highest = HIGHEST.get(kind, QUALIFIER_MAX)
    if not first <= last <= highest:
        raise UsageError(
            f"designation {whole!r}: {kind.value} {first:#x} to {last:#x} is no range within 0 to {highest:#x}"
        )
    return first, last


def _number(text: str) -> int:
    return int(text, 16 if text.startswith("0x") else 10)


def _instruction(text: str, whole: str) -> tuple[int, int]:
    if not re.fullmatch(r"([0-9a-fA-F]{2}){1,8}", text):
        raise UsageError(f"designation {whole!r}: expected 1 to 8 instruction bytes in hexadecimal, not {text!r}")
    try:
        return key_range(bytes.fromhex(text))
    except ValueError as error:
        raise UsageError(f"designation {whole!r}: {error}") from None

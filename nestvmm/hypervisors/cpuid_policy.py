"""CPUID as a hypervisor's level wants its guest to see it."""

from __future__ import annotations

from nestvmm.errors import UsageError
from nestvmm.hypervisors.base import Hypervisor
from nestvmm.kvm import CpuidEntry

__all__ = ["CpuidPolicy"]

_HYPERVISOR_PRESENT = 1 << 31  # CPUID 1 ECX, AMD APM vol. 3, appendix E.3.2
_SIGNATURE_LEAF = 0x40000000


class CpuidPolicy(Hypervisor):
    """Sets what its guest's CPUID reports; a static policy, so it works where CPUID itself does not trap.

    vendor:     12 characters of leaf 0
    signature:  up to 12 characters of the hypervisor leaf 0x40000000; empty hides the hypervisor
    clear, set: `LEAF.REGISTER.BIT` joined by `+`, such as `1.ecx.21+7.ebx.3`: bits to clear or to set (with
                LEAF:SUBLEAF for a subleaf other than 0)
    """

    def __init__(self, vendor: str = "", signature: str | None = None, clear: str = "", set: str = "") -> None:
        if vendor and len(vendor.encode()) != 12:
            raise UsageError(f"vendor {vendor!r} has not 12 characters")
        if signature and len(signature.encode()) > 12:
            raise UsageError(f"signature {signature!r} has more than 12 characters")
        self._vendor = vendor.encode()
        self._signature = None if signature is None else signature.encode()
        self._bits = [(*_parse_bit(text), False) for text in clear.split("+") if text]
        self._bits += [(*_parse_bit(text), True) for text in set.split("+") if text]

    def cpuid(self, entries: list[CpuidEntry]) -> list[CpuidEntry]:
        """Applies the policy."""
        if self._signature is not None:
            entries = _with_signature(entries, self._signature)
        for entry in entries:
            if entry.function == 0 and self._vendor:
                entry.ebx, entry.edx, entry.ecx = _words(self._vendor)
            for leaf, subleaf, register, bit, value in self._bits:
                if (entry.function, entry.index) == (leaf, subleaf):
                    before = getattr(entry, register)
                    setattr(entry, register, before | 1 << bit if value else before & ~(1 << bit))
        return entries


def _words(text: bytes) -> tuple[int, int, int]:
    padded = text.ljust(12, b"\0")
    return tuple(int.from_bytes(padded[i : i + 4], "little") for i in (0, 4, 8))  # type: ignore[return-value]


def _with_signature(entries: list[CpuidEntry], signature: bytes) -> list[CpuidEntry]:
    entries = [entry for entry in entries if not 0x40000000 <= entry.function <= 0x4FFFFFFF]
    if signature:
        ebx, ecx, edx = _words(signature)
        entries.append(CpuidEntry(function=_SIGNATURE_LEAF, eax=_SIGNATURE_LEAF, ebx=ebx, ecx=ecx, edx=edx))
    for entry in entries:
        if entry.function == 1:
            entry.ecx = entry.ecx | _HYPERVISOR_PRESENT if signature else entry.ecx & ~_HYPERVISOR_PRESENT
    return entries


def _parse_bit(text: str) -> tuple[int, int, str, int]:
    try:
        place, register, bit = text.split(".")
        leaf, _, subleaf = place.partition(":")
        numbers = int(leaf, 16), int(subleaf or "0", 16), int(bit)
    except ValueError:
        raise UsageError(
            f"CPUID bit {text!r}: expected LEAF.REGISTER.BIT, such as 1.ecx.21 (LEAF hexadecimal)"
        ) from None
    if register not in ("eax", "ebx", "ecx", "edx") or not 0 <= numbers[2] < 32:
        raise UsageError(f"CPUID bit {text!r}: no register eax, ebx, ecx or edx with a bit 0 to 31")
    return numbers[0], numbers[1], register, numbers[2]

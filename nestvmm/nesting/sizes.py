"""Sizes and addresses as users write them."""

from __future__ import annotations

import re

from nestvmm.errors import UsageError

__all__ = ["parse_number", "parse_size"]

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}


def parse_size(text: str | int, what: str) -> int:
    """Bytes of a size such as `512M`; a bare number is in MiB as in QEMU.

    Hexadecimal sizes (`0x1000`) are bytes. Raises UsageError naming `what`.
    """
    found = _parse(text, "m")
    if found is None:
        raise UsageError(f"{what}: {text!r:.60} is no size; write a whole number with K, M or G")
    return found


def parse_number(text: str | int, what: str) -> int:
    """A non-negative number, decimal or 0x...; K, M and G multiply by 1024s. Raises UsageError naming `what`."""
    found = _parse(text, "b")
    if found is None:
        raise UsageError(f"{what}: {text!r:.60} is no number from 0 up, such as 4096, 0x1000 or 4K")
    return found


def _parse(text: str | int, bare: str) -> int | None:
    match = re.fullmatch(r"(0x[0-9a-fA-F]{1,16})|(\d{1,18})([kKmMgGtTbB]?)[iI]?[bB]?", str(text).strip())
    if not match:
        return None
    if match[1]:
        return int(match[1], 16)
    return int(match[2]) << _UNITS.get((match[3] or bare).lower(), 0)

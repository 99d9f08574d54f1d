"""Sizes and addresses as users write them."""

from __future__ import annotations

import re

from nestvmm.errors import UsageError

__all__ = ["parse_number", "parse_size"]

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}


def parse_size(text: str | int, what: str, *, bare: str = "m") -> int:
    """Bytes of a size such as `512M`; a bare number is in MiB as in QEMU, or in units of `bare`.

    Hexadecimal sizes (`0x1000`) are bytes. Raises UsageError naming `what`.
    """
    if isinstance(text, int):
        text = str(text)
    match = re.fullmatch(r"(0x[0-9a-fA-F]{1,16})|(\d{1,18})([kKmMgGtTbB]?)[iI]?[bB]?", text.strip())
    if not match:
        raise UsageError(f"{what}: {text!r:.60} is no size; write a number with K, M or G")
    if match[1]:
        return int(match[1], 16)
    unit = (match[3] or bare).lower()
    return int(match[2]) << _UNITS.get(unit, 0)


def parse_number(text: str | int, what: str) -> int:
    """A non-negative number, decimal or 0x...; K, M and G multiply by 1024s. Raises UsageError naming `what`."""
    return parse_size(text, what, bare="b")

"""The type of options that take a time."""

from __future__ import annotations

import math

import click

__all__ = ["seconds"]

_MOST = 1e9


def seconds(text: str) -> float:
    """A positive number below 1e9, which is 30 years: neither nan nor infinity. Raises click.BadParameter."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < _MOST:
        raise click.BadParameter(f"{text!r:.60} is no positive number of seconds")
    return value

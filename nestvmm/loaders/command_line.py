"""The command line, as bytes for the guest."""

from __future__ import annotations

from nestvmm.errors import ImageError

__all__ = ["command_line"]


def command_line(text: str) -> bytes:
    """The command line as a guest gets it, with a NUL behind it."""
    if "\0" in text:
        raise ImageError("the command line holds a NUL character")
    try:
        return text.encode(errors="surrogateescape") + b"\0"
    except UnicodeEncodeError as error:
        raise ImageError(f"the command line cannot be encoded: {error.reason}") from None

"""Where `--json` goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from nestvmm.errors import UsageError

__all__ = ["account_file"]


@contextmanager
def account_file(name: str | None) -> Iterator[TextIO | None]:
    """The file to write the account to, opened before the run so that no run is in vain; None without a name.

    `-` is standard output, which then is the account's alone: what the guest, and hypervisors, write to it vanishes.
    """
    if name is None:
        yield None
    elif name == "-":
        with _standard_output() as file:
            yield file
    else:
        try:
            file = Path(name).open("w", encoding="utf-8")  # noqa: SIM115 - closed below; only opening it is the user's error
        except (OSError, ValueError) as error:
            raise UsageError(f"--json {name}: {getattr(error, 'strerror', error)}") from None
        with file:
            yield file


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    sys.stdout.flush()
    kept = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as file:
            yield file
    finally:
        os.dup2(kept, 1)
        os.close(kept)

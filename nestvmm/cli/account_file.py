"""Where `--json` goes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from nestvmm.errors import HostError, UsageError

__all__ = ["account_file", "write_account"]


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


def write_account(file: TextIO, account: Mapping[str, object]) -> None:
    """Writes it. Raises HostError where it does not fit, BrokenPipeError where nobody reads it any more."""
    try:
        json.dump(account, file, indent=2)
        file.write("\n")
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # what is left of it would fail again when the file is closed
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, file.fileno())
        os.close(null)
        raise HostError(f"--json: {error.strerror}") from None


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

"""Errors that a hypervisor's own code raises: whose they are, and where they come from."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nestvmm.errors import HypervisorError, NestvmmError

__all__ = ["FAULTS", "blame", "blaming"]

#: What is a hypervisor's failure: sys.exit is, too, as a run ends by `Result.stopped` and not behind its back.
FAULTS: Final = (Exception, SystemExit)


def blame(level: int, who: str, what: str, error: Exception | SystemExit) -> HypervisorError:
    """The error of the hypervisor `who` at a level that raised `error` on or in `what`, with its traceback."""
    trace = "".join(traceback.format_exception(error)).rstrip()
    return HypervisorError(f"L{level} {who} raised {type(error).__name__} {what}\n{trace}")


@contextmanager
def blaming(level: int, who: str, method: str) -> Iterator[None]:
    """Raises what a hypervisor's method raises as `blame` words it; a NestvmmError is one message already."""
    try:
        yield
    except NestvmmError:
        raise
    except FAULTS as error:
        raise blame(level, who, f"in {method}", error) from error

"""Whose fault an exception is: what a Python hypervisor raises becomes an error that names its level."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from nestvmm.errors import HypervisorError, NestvmmError
from nestvmm.hypervisors import Hypervisor

__all__ = ["blame"]


@contextmanager
def blame(level: int, hypervisor: Hypervisor, what: str) -> Iterator[None]:
    """Runs code of the hypervisor at `level`; what it raises becomes a HypervisorError with `what` and the traceback.

    Errors of nestvmm's own, such as a UsageError for an option, stay what they are.
    """
    try:
        yield
    except NestvmmError:
        raise
    except Exception as error:
        raise HypervisorError(
            f"L{level} {type(hypervisor).__name__} raised {type(error).__name__} in {what}\n{traceback.format_exc()}"
        ) from error

"""The exceptions that a hypervisor may give its guest: their vectors, and which of them have an error code."""

from __future__ import annotations

from typing import Final

from nestvmm._native import lib

__all__ = ["wrong_exception"]

_NMI: Final = 2
_ERROR_CODE_MAX: Final = (1 << 32) - 1


def wrong_exception(vector: int, error_code: int | None) -> str:
    """What no processor raises about this exception, and what to give instead; empty: nothing.

    AMD APM vol. 2, 8.2; Intel SDM vol. 3, table 6-1. In real mode the engines leave the error code out.
    """
    if not 0 <= vector <= 31 or vector == _NMI:
        return f"vector {vector} is no exception: they are 0 to 31, without 2"
    if not lib.nv_exception_has_error_code(vector):
        return "" if error_code is None else f"exception {vector} has no error code: leave out {error_code:#x}"
    if error_code is None:
        return f"exception {vector} has an error code: give one, which is 0 if there is nothing to tell"
    if not 0 <= error_code <= _ERROR_CODE_MAX:
        return f"exception {vector} has an error code of 32 bits: {error_code:#x} is none"
    return ""

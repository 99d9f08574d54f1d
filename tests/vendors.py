"""What tests of both vendors run for: the parameters of the fixture `vendor`, and what is one vendor's alone.

`svm_alone` and `vmx_alone` mark a test, or one parameter of it; conftest.py deselects the other vendor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

__all__ = ["VENDORS", "named", "of_another_vendor", "svm_alone", "vmx_alone"]

VENDORS = [pytest.param("svm", marks=pytest.mark.svm_lab), pytest.param("vmx", marks=pytest.mark.vmx_lab)]

svm_alone, vmx_alone = pytest.mark.vendor("svm"), pytest.mark.vendor("vmx")


def named(names: Iterable[str], alone: pytest.MarkDecorator, is_alone: Callable[[str], bool]) -> pytest.MarkDecorator:
    """The parameter `name`: those that `is_alone` is true of are one vendor's."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=[alone] * is_alone(name)) for name in names])


def of_another_vendor(item: pytest.Item) -> bool:
    """Whether a mark keeps a test from the vendor that it would run for."""
    mark = item.get_closest_marker("vendor")
    return mark is not None and item.callspec.params["vendor"] not in mark.args  # type: ignore[attr-defined]

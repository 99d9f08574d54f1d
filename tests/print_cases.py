"""What a script of cases does inside a lab: runs them one after the other and prints what they found as JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

__all__ = ["print_cases"]


def print_cases(cases: Mapping[str, Callable[[], object]], names: Sequence[str] = (), **more: object) -> None:
    """Those with these names, or all; and `more` as it is. A case that raises has a `traceback`, and ends no other."""
    found = dict(more)
    for name, case in cases.items():
        if names and name not in names:
            continue
        print(name, file=sys.stderr, flush=True)
        try:
            found[name] = case()
        except Exception:  # noqa: BLE001 - one case must not hide the others
            found[name] = {"traceback": traceback.format_exc()}
    print(json.dumps(found))

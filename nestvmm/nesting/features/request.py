"""What a user wants levels to expose: `Ln:+feature,-feature` and, in a level's own table, `+feature` and `-feature`."""

from __future__ import annotations

import re

from nestvmm.errors import UsageError
from nestvmm.nesting.features.catalog import find_feature
from nestvmm.nesting.spec import TowerSpec

__all__ = ["Request", "requests"]

# Feature names, True: the level must expose it, False: it hides it. In the order of their turns: the last one counts.
Request = dict[str, bool]


def requests(spec: TowerSpec) -> list[Request]:
    """What each level, L0 first, is to expose and to hide: its table in the tower file, then the tower's `expose`.

    Raises UsageError: bad form, unknown feature, no such level.
    """
    found: list[Request] = [{} for _ in range(spec.height)]
    for level, one in enumerate(spec.levels, start=1):
        for text in one.expose:
            _add(found[level], text, f"L{level} expose {text!r:.80}")
    for text in spec.expose:
        what = f"expose {text!r:.80}"
        match = re.fullmatch(r"[lL]([0-9]{1,3}):(.+)", text, re.DOTALL)
        if not match:
            raise UsageError(f"{what}: expected Ln:+feature,-feature, such as L1:-popcnt")
        level = int(match[1])
        if level >= spec.height:
            highest = "L0 only" if spec.height == 1 else f"L0 to L{spec.height - 1}"
            raise UsageError(
                f"{what}: L{level} is no hypervisor of this tower, so nothing is above it; it has {highest}"
            )
        for item in match[2].split(","):
            _add(found[level], item, what)
    return found


def _add(request: Request, item: str, what: str) -> None:
    if item[:1] not in ("+", "-"):
        raise UsageError(f"{what}: expected +feature or -feature, not {item!r:.60}")
    try:
        feature = find_feature(item[1:])
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from None
    request[feature.name] = item[0] == "+"

"""The `--level` option: a hypervisor and its options, or an image, in one word."""

from __future__ import annotations

import re
from pathlib import Path

from nestvmm.errors import UsageError
from nestvmm.nesting.spec import LevelSpec, Option

__all__ = ["parse_level"]

_WORDS: dict[str, Option] = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


_IMAGE = "image="


def parse_level(text: str) -> LevelSpec:
    """The level of `NAME[,option=value ...]`, or of `image=FILE[,append=TEXT]`, whose text may have commas.

    Values of options are numbers, booleans, else strings. Raises UsageError.
    """
    if text.startswith(_IMAGE):
        image, _, append = text.removeprefix(_IMAGE).partition(",append=")
        if not image or "\0" in text:
            raise UsageError(f"--level {text!r}: expected image=FILE, or image=FILE,append=TEXT")
        return LevelSpec(image=Path(image), append=append)
    name, *pairs = text.split(",")
    options: dict[str, Option] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--level {text!r}: expected option=value after the name, not {pair!r}")
        options[key] = _value(value)
    if not name:
        raise UsageError(f"--level {text!r}: no hypervisor is named")
    return LevelSpec(name, options)


def _value(text: str) -> Option:
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]{1,32}|\d{1,32})", text):
        return int(text, 0) if not re.fullmatch(r"-?0\d+", text) else int(text, 10)
    return _WORDS.get(text.lower(), text)

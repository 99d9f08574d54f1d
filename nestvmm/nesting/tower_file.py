"""Tower files: a tower in TOML.

engine = "auto"                # auto | direct | svm | vmx
machine = "bare"               # auto | pc | bare
unclaimed = "error"            # ignore | error
timeout = 30                   # seconds
io-intercepts = false          # claimed ports exit by the svm or vmx engine's own intercepts, not by KVM's
designate = ["io:0x80=L0"]
expose = ["L0:-rdrand"]        # features that levels expose or hide; see `nestvmm features`

[guest]                        # level n
kernel = "events/events.elf"   # relative to the tower file
append = "quiet"
memory = "64M"                 # a bare number is MiB

[[level]]                      # level 1; the next one is level 2, and so on
hypervisor = "console"         # a stock one, module:Class, or file.py:Class
options = { irq = 4 }
expose = ["+popcnt", "-aes"]   # the same for this level
memory = [ { base = 0, size = "32M", at = "16M", rights = "rw" } ]   # its guest's memory in its own; absent: all of it

[[level]]
image = "minivisor/minivisor-svm.elf"   # machine code in place of a Python hypervisor; relative to the tower file
append = "level=2"                      # its command line
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestvmm.errors import UsageError
from nestvmm.nesting.memory import Region
from nestvmm.nesting.sizes import parse_number, parse_size
from nestvmm.nesting.spec import GuestSpec, LevelSpec, Option, TowerSpec
from nestvmm.x86.rights import Rights

__all__ = ["load_tower_file", "parse_tower"]

_CHOICES = {
    "engine": ("auto", "direct", "svm", "vmx"),
    "machine": ("auto", "pc", "bare"),
    "unclaimed": ("ignore", "error"),
}
_RIGHTS = {"r": Rights.READ, "w": Rights.WRITE, "x": Rights.EXECUTE}
_FILE_MAX = 1 << 20
_DEPTH_MAX = 32
_TOP = "the tower"
_WORDS: dict[type, str] = {
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
    bool: "true or false",
}


def load_tower_file(path: Path) -> TowerSpec:
    """Reads a tower file; raises UsageError for one that cannot be read or that is wrong."""
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise UsageError(f"tower file {path}: {error.strerror}") from None
    if len(raw) > _FILE_MAX:
        raise UsageError(f"{path}: larger than {_FILE_MAX} bytes; this is no tower file")
    try:
        return parse_tower(raw.decode(), path.parent)
    except UnicodeDecodeError:
        raise UsageError(
            f"{path}: not UTF-8 text, so no tower file; what ends in .toml is not run as an image"
        ) from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def parse_tower(text: str, folder: Path) -> TowerSpec:
    """The tower of a TOML text; paths in it are relative to `folder`. Raises UsageError."""
    import tomllib  # noqa: PLC0415 - only runs of tower files wait for it

    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise UsageError("not a TOML file: nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"not a TOML file: {error}") from None
    _refuse_giants(document, 1)
    table = _Table(_TOP, document)
    guest = _guest(table.table("guest"), folder)
    levels = tuple(_level(one, folder) for one in table.tables("level"))
    choices = {key: table.choice(key, allowed) for key, allowed in _CHOICES.items()}
    spec = TowerSpec(
        guest,
        levels,
        table.strings("designate"),
        timeout=table.seconds("timeout"),
        expose=table.strings("expose"),
        io_intercepts=table.flag("io-intercepts"),
        **choices,
    )
    table.finish()
    return spec


def _refuse_giants(value: object, depth: int) -> None:
    """TOML's integers have 64 bits and tomllib takes any; a.b.c... nests without end: no message could show either."""
    if depth > _DEPTH_MAX:
        raise UsageError("not a tower file: nested too deeply")
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _refuse_giants(one, depth + 1)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise UsageError("not a TOML file: an integer of more than 64 bits")


def _guest(table: _Table, folder: Path) -> GuestSpec:
    kernel = table.text("kernel", None)
    if not kernel:
        raise UsageError('[guest] names no kernel; write kernel = "IMAGE"')
    initrd = table.text("initrd", "")
    address = table.get("address", None, int, str)
    guest = GuestSpec(
        kernel=folder / kernel,
        append=table.text("append", "") or "",
        initrd=str(folder / initrd) if initrd else None,
        address=None if address is None else parse_number(address, "[guest] address"),
        memory=parse_size(table.get("memory", "128M", int, str), "[guest] memory"),
    )
    table.finish()
    return guest


def _level(table: _Table, folder: Path) -> LevelSpec:
    hypervisor, image = table.text("hypervisor", None), table.text("image", None)
    if hypervisor and image:
        raise UsageError(f"{table.name} names both a hypervisor and an image; a level is one of them")
    if image:
        level = LevelSpec(image=folder / image, append=table.text("append", "") or "")
        table.finish()
        return level
    if not hypervisor:
        raise UsageError(
            f'{table.name} names no hypervisor; write hypervisor = "NAME", "module:Class" or "file.py:Class", '
            'or image = "FILE"'
        )
    if ".py:" in hypervisor:
        hypervisor = str(folder / hypervisor)
    options = table.table("options", f"{table.name} options")
    memory = tuple(_region(one) for one in table.tables("memory")) if table.has("memory") else None
    level = LevelSpec(hypervisor, options.options(), memory, table.strings("expose"))
    table.finish()
    return level


def _region(table: _Table) -> Region:
    numbers = {}
    for key, default in (("base", None), ("size", None), ("at", 0)):
        value = table.get(key, default, int, str)
        if value is None:
            raise UsageError(f"{table.name} gives no {key}")
        numbers[key] = parse_number(value, f"{table.name} {key}")
    letters = table.text("rights", "rwx") or ""
    if not letters or set(letters) - set(_RIGHTS):
        raise UsageError(f"{table.name} rights: {letters!r} is not made of r, w and x")
    rights = Rights(0)
    for letter in letters:
        rights |= _RIGHTS[letter]
    table.finish()
    try:
        return Region(numbers["base"], numbers["size"], numbers["at"], rights)
    except UsageError as error:
        raise UsageError(f"{table.name}: {error}") from None


class _Table:
    """One TOML table: takes its keys one by one and refuses what is left."""

    def __init__(self, name: str, content: Mapping[str, Any]) -> None:
        self.name = name
        self._left = dict(content)
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._left

    def get(self, key: str, default: Any, *types: type) -> Any:
        self._known.append(key)
        value = self._left.pop(key, default)
        if value is not default and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            wanted = " or ".join(dict.fromkeys(_WORDS[one] for one in types))
            raise UsageError(f"{self.name} {key}: expected {wanted}, not {value!r:.60}")
        return value

    def text(self, key: str, default: str | None) -> str | None:
        value: str | None = self.get(key, default, str)
        if value is not None and "\0" in value:
            raise UsageError(f"{self.name} {key}: a NUL character")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.get(key, allowed[0], str)
        if value not in allowed:
            raise UsageError(f"{self.name} {key}: {value!r} is not one of {', '.join(allowed)}")
        return str(value)

    def seconds(self, key: str) -> float | None:
        value = self.get(key, None, int, float)
        if value is not None and not 0 < value < 1e9:
            raise UsageError(f"{self.name} {key}: {value!r} is no positive number of seconds")
        return value if value is None else float(value)

    def flag(self, key: str) -> bool:
        return bool(self.get(key, False, bool))

    def strings(self, key: str) -> tuple[str, ...]:
        values = self.get(key, [], list)
        for value in values:
            if not isinstance(value, str):
                raise UsageError(f"{self.name} {key}: expected strings, not {value!r:.60}")
        return tuple(values)

    def table(self, key: str, name: str = "") -> _Table:
        return _Table(name or f"[{key}]", self.get(key, {}, dict))

    def tables(self, key: str) -> list[_Table]:
        if isinstance(self._left.get(key), dict):
            raise UsageError(f"{self.name} {key}: one of several; write [[{key}]], with two brackets")
        values = self.get(key, [], list)
        for value in values:
            if not isinstance(value, dict):
                raise UsageError(f"{self.name} {key}: expected tables, not {value!r:.60}")
        place = "" if self.name == _TOP else f"{self.name} "
        return [_Table(f"{place}[[{key}]] {number}", value) for number, value in enumerate(values, start=1)]

    def options(self) -> dict[str, Option]:
        for key, value in self._left.items():
            if not isinstance(value, str | int | bool):
                raise UsageError(f"{self.name} {key}: expected a string, a number or a boolean, not {value!r:.60}")
        return dict(self._left)

    def finish(self) -> None:
        if not self._left:
            return
        import difflib  # noqa: PLC0415 - only errors wait for it

        for key in self._left:
            near = difflib.get_close_matches(key, self._known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(dict.fromkeys(self._known))}"
            raise UsageError(f"{self.name}: unknown key {key!r:.60}{hint}")

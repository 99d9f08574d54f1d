"""From a name and options to a hypervisor, and each way in which that goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nestvmm.errors import HypervisorError, UsageError
from nestvmm.hypervisors import Hypervisor
from nestvmm.hypervisors.find import STOCK, find_hypervisor, make_hypervisor

EXPECTED = "expected one of console, cpuid-policy, debug-console, logger, msr-policy, or module:Class, or file.py:Class"


class Plain(Hypervisor):
    pass


class Typed(Hypervisor):
    def __init__(self, number: int, text: str = "", flag: bool = False, maybe: int | None = None) -> None:
        self.got = (number, text, flag, maybe)


class Untyped(Hypervisor):
    def __init__(self, anything, some: Any = None, **more: int) -> None:  # type: ignore[no-untyped-def]
        self.got = (anything, some, more)


class Unresolvable(Hypervisor):
    def __init__(self, option: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
        self.got = option


class Raises(Hypervisor):
    def __init__(self) -> None:
        raise RuntimeError("not today")


class Refuses(Hypervisor):
    def __init__(self, port: int) -> None:
        raise UsageError(f"port {port} is not to my taste")


class NoHypervisor:
    pass


def test_every_stock_name_is_a_class() -> None:
    assert sorted(STOCK) == ["console", "cpuid-policy", "debug-console", "logger", "msr-policy"]
    for name, place in STOCK.items():
        found = find_hypervisor(name)
        assert f"{found.__module__}:{found.__name__}" == place


def test_module_and_class() -> None:
    assert find_hypervisor(f"{__name__}:Plain") is Plain


def test_a_file_and_class(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from nestvmm.hypervisors import Hypervisor\n"
        "@dataclass\nclass Mine(Hypervisor):\n    port: int = 5\n"
    )
    one = make_hypervisor(f"{file}:Mine", {"port": 7}, 2)
    assert one.port == 7  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="option port takes a number, not 'x'"):
        make_hypervisor(f"{file}:Mine", {"port": "x"}, 2)


@pytest.mark.parametrize("name", ["", "nobody", ":", "a:", ":B", "a:b-c", "a:5", "console:"])
def test_what_names_no_class_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_hypervisor(name)
    assert str(caught.value) == f"hypervisor {name!r}: {EXPECTED}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module:X", "cannot import no.such.module: ModuleNotFoundError: No module named 'no'"),
        (".relative:X", "cannot import .relative: TypeError"),
        (f"{__name__}:Nobody", f"{__name__} has no class Nobody derived from Hypervisor"),
        (f"{__name__}:NoHypervisor", f"{__name__} has no class NoHypervisor derived from Hypervisor"),
        (f"{__name__}:EXPECTED", "has no class EXPECTED derived"),
        ("missing.py:X", "missing.py: No such file or directory"),
    ],
)
def test_a_name_that_leads_nowhere_says_where_it_ends(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_hypervisor(name)
    assert str(caught.value).startswith(f"hypervisor {name!r}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def broken(:\n", "raised SyntaxError"),
        (b"1 / 0\n", "raised ZeroDivisionError"),
        (b"\0", "raised "),
        (b"x", "NameError"),
    ],
)
def test_a_file_that_does_not_load_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        find_hypervisor(f"{file}:X")


def test_options_are_the_constructors() -> None:
    made = make_hypervisor(f"{__name__}:Typed", {"number": 5, "flag": True, "maybe": 7}, 1)
    assert made.got == (5, "", True, 7)  # type: ignore[attr-defined]
    made = make_hypervisor(f"{__name__}:Untyped", {"anything": True, "some": "x", "other": 1}, 1)
    assert made.got == (True, "x", {"other": 1})  # type: ignore[attr-defined]
    assert make_hypervisor(f"{__name__}:Unresolvable", {"option": 1}, 1).got == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Plain", {"port": 5}, "got an unexpected keyword argument 'port'; its options are: none"),
        ("Typed", {}, "missing a required argument: 'number'; its options are: number, text, flag, maybe"),
        ("Typed", {"number": "abc"}, "option number takes a number, not 'abc'"),
        ("Typed", {"number": True}, "option number takes a number, not True"),
        ("Typed", {"number": 1, "text": 5}, "option text takes a string, not 5"),
        ("Typed", {"number": 1, "flag": 1}, "option flag takes true or false, not 1"),
        ("Typed", {"number": 1, "maybe": "x"}, "option maybe takes a number, not 'x'"),
        ("Refuses", {"port": 9}, "port 9 is not to my taste"),
    ],
)
def test_wrong_options_are_refused_with_the_level(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_hypervisor(f"{__name__}:{name}", options, 3)
    assert str(caught.value) == f"L3 {__name__}:{name}: {message}"


def test_a_constructor_that_raises_is_the_hypervisors_error() -> None:
    with pytest.raises(HypervisorError, match=r"^L2 .*:Raises raised RuntimeError in its constructor\nTraceback "):
        make_hypervisor(f"{__name__}:Raises", {}, 2)

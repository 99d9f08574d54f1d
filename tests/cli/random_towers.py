"""Random tower files: from such that run to such that are not even TOML."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from machine_code import ADDRESS

Value = object

WORDS = [
    "",
    "x",
    "ü☃\U0001f600",
    "a\nb",
    "\0",
    " ",
    "-1",
    "0x",
    "L0",
    "io",
    "../..",
    "/",
    "\\",
    "'",
    "%s",
    "{}",
    "x" * 5000,
]
NUMBERS = [
    0,
    1,
    -1,
    4,
    63,
    64,
    255,
    4096,
    1 << 20,
    1 << 31,
    1 << 32,
    1 << 52,
    1 << 62,
    (1 << 63) - 1,
    -(1 << 63),
    10**40,
]
FLOATS = [0.0, 0.05, -1.5, 1e300, float("inf"), float("nan")]
SIZES = [
    "4K",
    "1M",
    "2M",
    "16M",
    "32M",
    "64M",
    "3G",
    "5G",
    "1T",
    "100T",
    "9999999999T",
    "0",
    "0x1000",
    "1.5G",
    "K",
    "-1M",
]
REASONS = [
    "io",
    "mmio",
    "msr",
    "rdmsr",
    "hlt",
    "debug",
    "shutdown",
    "emulation-failure",
    "cpuid",
    "vmx-instruction",
    "none",
]
KEYS = [
    "guest",
    "level",
    "engine",
    "machine",
    "unclaimed",
    "timeout",
    "designate",
    "kernel",
    "append",
    "memory",
    "initrd",
]
KEYS += ["address", "hypervisor", "options", "base", "size", "at", "rights", "colour", "", "ü", "a.b"]


class Dice(random.Random):
    """Chances by name."""

    def once_in(self, times: int) -> bool:
        return self.randrange(times) == 0

    def weird(self, depth: int = 0) -> Value:
        """Any value at all."""
        kinds: list[Callable[[], Value]] = [
            lambda: self.choice(WORDS),
            lambda: self.choice(NUMBERS),
            lambda: self.choice(FLOATS),
            lambda: self.once_in(2),
            lambda: self.choice(SIZES),
            lambda: self.randrange(-10, 1 << self.randrange(4, 60)),
        ]
        if depth < 3:
            kinds.append(lambda: [self.weird(depth + 1) for _ in range(self.randrange(4))])
            kinds.append(lambda: {self.choice(KEYS): self.weird(depth + 1) for _ in range(self.randrange(4))})
        return self.choice(kinds)()

    def mostly(self, good: Callable[[], Value], chance: int = 150) -> Value:
        """A good value, and once in `chance` any."""
        return self.weird() if self.once_in(chance) else good()


def region(dice: Dice) -> Value:
    page = 4096
    made: dict[str, Value] = {
        "base": dice.mostly(lambda: dice.choice([0, 0, page * dice.randrange(1 << 14), "16M", 0xD0000000, 1 << 40])),
        "size": dice.mostly(lambda: dice.choice(["16M", "8M", page * dice.randrange(1, 1 << 13), "4K", "1G"])),
    }
    if dice.once_in(2):
        made["at"] = dice.mostly(
            lambda: dice.choice([0, page * dice.randrange(1 << 13), "16M", "1G", (1 << 52) - page])
        )
    if dice.once_in(3):
        made["rights"] = dice.mostly(lambda: dice.choice(["r", "rw", "rx", "rwx", "x", "w", "rwxr", ""]))
    return made


def qualifier(dice: Dice) -> str:
    number = hex(dice.choice([0, 0x80, 0x3F8, 0xF4, 0xFFFF, 0x10000, 0xD0000000, 1 << 63]))
    return dice.choice(
        ["", f":{number}", f":{number}-{number}", f":{number}+4", ":*", ":f4", ":x", ":0:0", f":{number}:w"]
    )


def hypervisor(dice: Dice) -> dict[str, Value]:
    name = dice.choice(["console", "logger", "cpuid-policy", "debug-console", "msr-policy"])
    good: dict[str, dict[str, Callable[[], Value]]] = {
        "console": {"port": lambda: dice.choice([0x3F8, 0x2F8, 0, 0xFFF8, 0xFFF9]), "irq": lambda: dice.randrange(30)},
        "logger": {
            "reasons": lambda: "+".join(dice.choices(REASONS, k=dice.randrange(1, 4))),
            "limit": lambda: 0,
            "first": lambda: dice.choice([0, 0x80, 1 << 40]),
        },
        "cpuid-policy": {
            "vendor": lambda: dice.choice(["AuthenticAMD", "x"]),
            "clear": lambda: dice.choice(["1.ecx.21", "1.ecx.99", "z"]),
        },
        "debug-console": {"port": lambda: dice.choice([0xE9, 0x10000])},
        "msr-policy": {"first": lambda: dice.choice([0x10, 0x4E560000, 1 << 32]), "deny": lambda: dice.once_in(2)},
    }
    options = {
        key: dice.mostly(value) for key, value in good[name].items() if dice.once_in(2) or key in ("first", "limit")
    }
    if dice.once_in(30):
        options[dice.choice(KEYS)] = dice.weird()
    made: dict[str, Value] = {"hypervisor": dice.mostly(lambda: name), "options": dice.mostly(lambda: options)}
    if dice.once_in(3):
        made["memory"] = dice.mostly(lambda: [region(dice) for _ in range(dice.choice([0, 1, 1, 1, 2, 2, 3, 40]))])
    return made


def tower(dice: Dice, kernels: list[str]) -> dict[str, Value]:
    kernel = dice.choice(kernels)
    guest: dict[str, Value] = {"kernel": dice.mostly(lambda: kernel)}
    if kernel.endswith(".bin"):
        guest["address"] = dice.mostly(lambda: ADDRESS)
    if dice.once_in(2):
        guest["memory"] = dice.mostly(lambda: dice.choice(SIZES[2:8]), 20)
    if dice.once_in(4):
        guest["append"] = dice.mostly(lambda: dice.choice(["quiet", "level=3 walk=1", "ü", "x" * 3000]))
    height = dice.choice([0, 0, 1, 1, 2, 3, 5, 62, 63, 64]) if dice.once_in(3) else dice.randrange(4)
    document: dict[str, Value] = {
        "guest": dice.mostly(lambda: guest),
        "level": [hypervisor(dice) for _ in range(height)],
    }
    choices = {
        "engine": ["auto", "direct", "direct", "svm"],
        "machine": ["auto", "pc", "bare"],
        "unclaimed": ["ignore", "error"],
        "timeout": [0.1, 1, 30],
    }
    for key, values in choices.items():
        if dice.once_in(4):
            document[key] = dice.mostly(lambda values=values: dice.choice(values), 60)
    if dice.once_in(4):
        level = f"L{dice.randrange(max(1, height) + dice.once_in(5))}"
        document["designate"] = dice.mostly(lambda: [dice.choice(REASONS) + qualifier(dice) + "=" + level])
    if dice.once_in(25):
        document[dice.choice(KEYS)] = dice.weird()
    return document


def as_toml(value: Value) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(str(key))} = {as_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("NaN", "nan").replace("Infinity", "inf")


def spoil(dice: Dice, text: str) -> str:
    """Text that may be TOML no more."""
    at = dice.randrange(len(text) + 1)
    characters = ['"', "[", "]", "{", "}", "=", "\n", "#", "\0", "\ud800", ",", "."]
    kinds: list[Callable[[], str]] = [
        lambda: text[:at],
        lambda: text[:at] + dice.choice(characters) + text[at:],
        lambda: text + "x = " + "[" * dice.choice([10, 1000, 100_000]),
        lambda: text + "x = " + "{ a = " * dice.choice([10, 1000, 20_000]),
        lambda: text + ".".join("a" * dice.choice([10, 1000])) + " = 1\n",
        lambda: text.replace(" = ", dice.choice([" = = ", ": ", " "]), 1),
        lambda: "".join(chr(dice.choice([dice.randrange(128), dice.randrange(0xD800)])) for _ in range(at)),
    ]
    return dice.choice(kinds)()


def random_tower(seed: int, kernels: list[str]) -> str:
    """The text of a tower file; the same for the same seed."""
    dice = Dice(seed)
    text = "".join(f"{json.dumps(key)} = {as_toml(value)}\n" for key, value in tower(dice, kernels).items())
    return spoil(dice, text) if dice.once_in(12) else text

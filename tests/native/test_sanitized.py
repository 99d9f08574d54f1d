"""What a guest feeds C code, under the address and undefined-behaviour sanitizers."""

import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"
COMMON = (
    *("nested_machines.c", "nested_memory.c", "nested_given.c", "nested_claims.c", "nested_cpuid.c"),
    "nested_maps.c",
    *("switched.c", "shadow.c", "paging.c", "pending.c", "exception.c"),
    *("fetch.c", "length.c", "instruction.c", "undefined.c", "direct.c", "vcpu.c", "table.c", "counters.c", "trace.c"),
)


def software(vendor: str) -> tuple[str, ...]:
    """The sources of software SVM or VMX, and of the engine below it."""
    own = [*NATIVE.glob(f"nested_{vendor}*.c"), *NATIVE.glob(f"{vendor}*.c")]
    return (*(path.name for path in sorted(own)), *COMMON)


SOURCES = {
    "device_streams": ("uart.c", "debugcon.c", "ignore.c", "output.c"),
    "instruction_bytes": ("instruction.c", "length.c"),
    "hostile_svm": software("svm"),
    "hostile_vmx": software("vmx"),
    "deep_tables": software("svm"),
}
# What the programs are told: 12,000 control blocks from each of two seeds.
RUNS = [
    ("device_streams", ()),
    ("instruction_bytes", ()),
    ("hostile_svm", ("1", "12000")),
    ("hostile_svm", ("2", "12000")),
    ("hostile_vmx", ("1", "12000")),
    ("hostile_vmx", ("2", "12000")),
    ("deep_tables", ()),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sanitized")


def build(name: str, program: Path) -> None:
    subprocess.run(
        [
            "gcc",
            "-std=gnu11",
            "-g",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover",
            f"-I{NATIVE}",
            f"-o{program}",
            Path(__file__).with_name(f"{name}.c"),
            *(NATIVE / source for source in SOURCES[name]),
            "-lpthread",
        ],
        check=True,
        timeout=120,
    )


@pytest.mark.parametrize(("name", "words"), RUNS)
def test_no_input_makes_it_leave_its_memory(name: str, words: tuple[str, ...], folder: Path) -> None:
    program = folder / name
    if not program.exists():
        build(name, program)
    run = subprocess.run([program, *words], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")

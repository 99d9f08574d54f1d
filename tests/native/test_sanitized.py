"""What a guest feeds C code, under the address and undefined-behaviour sanitizers."""

import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"
SOURCES = {
    "device_streams": ("uart.c", "debugcon.c", "ignore.c", "output.c"),
    "instruction_bytes": ("instruction.c", "length.c"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_no_input_makes_it_leave_its_memory(name: str, tmp_path: Path) -> None:
    program = tmp_path / name
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
    run = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")

"""The devices in C under the address and undefined-behaviour sanitizers."""

import subprocess
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[2] / "native"
SOURCES = ("uart.c", "debugcon.c", "ignore.c", "output.c")


def test_no_stream_of_accesses_leaves_its_memory(tmp_path: Path) -> None:
    program = tmp_path / "device_streams"
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
            Path(__file__).with_name("device_streams.c"),
            *(NATIVE / source for source in SOURCES),
            "-lpthread",
        ],
        check=True,
        timeout=120,
    )
    run = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")

"""2,000 random tower files give a tower that can run or one error; some of each go through the command itself."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command import Ended, guest, nestvmm
from machine_code import leave
from random_towers import random_tower

from nestvmm.errors import NestvmmError
from nestvmm.kvm import KvmError
from nestvmm.nesting import Tower, parse_tower

pytestmark = pytest.mark.kvm


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "code.bin").write_bytes(leave(0))
    (folder / "empty").write_bytes(b"")
    return [str(folder / "code.bin")] * 6 + [str(guest("hello")), str(folder / "empty"), str(folder / "none")]


@pytest.mark.parametrize("part", range(8))
def test_2000_random_towers_in_process(part: int, kernels: list[str], tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    for seed in range(250 * part, 250 * part + 250):
        text = random_tower(seed, kernels)
        began = time.process_time()
        try:
            with Tower(parse_tower(text, tmp_path), stdout=-1) as tower:
                assert tower.describe().startswith(f"L{tower.height} ")
                ends["tower"] += 1
        except (NestvmmError, KvmError) as error:
            ends[type(error).__name__] += 1
            ends["unclear"] += not 10 < len(str(error)) < 3000
        except Exception as error:
            raise AssertionError(f"seed {seed}: {text[:500]}") from error
        assert time.process_time() - began < 10, f"seed {seed}"
    assert ends["tower"] > 30, ends
    assert ends["UsageError"] > 40, ends
    assert ends["HostError"] + ends["ImageError"] > 4, ends
    assert ends["KvmError"] == ends["HypervisorError"] == ends["unclear"] == 0, ends


def test_random_towers_through_the_command(kernels: list[str], tmp_path: Path) -> None:
    def run(seed: int) -> Ended:
        file = tmp_path / f"{seed}.toml"
        file.write_text(random_tower(seed, kernels), encoding="utf-8", errors="surrogatepass")
        return nestvmm("run", file, "--timeout", 2)

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(run, range(5000, 5036)))
    for seed, ended in enumerate(ends, 5000):
        assert ended.status in (0, 2, 3, 4, 124, 255), (seed, ended)
        assert "Traceback" not in ended.err, (seed, ended)
        assert ended.status == 0 or ended.err.count("nestvmm: ") == 1, (seed, ended)
        assert ended.peak < 256 << 20, (seed, ended)
    assert {0, 2, 3} <= {ended.status for ended in ends}


@pytest.mark.parametrize("memory", ["1P", "200T", "3000G", "4503599627370495M"])
def test_huge_memory_is_one_error(memory: str) -> None:
    ended = nestvmm("run", guest("hello"), "-m", memory)
    assert ended.status in (2, 3)
    assert ended.failed(ended.status)
    assert len(ended.err.splitlines()) == 1


def test_as_many_levels_as_there_can_be(tmp_path: Path, kernels: list[str]) -> None:
    """63 hypervisors under a guest: each sees its events, and all maps compose."""
    level = (
        '[[level]]\nhypervisor = "logger"\noptions = { limit = 0 }\nmemory = [{ base = 0, size = "%dK", at = "4K" }]\n'
    )
    levels = "".join(level % (4096 - 4 * number) for number in range(1, 64))
    file = tmp_path / "tower.toml"
    head = f'[guest]\nkernel = "{kernels[0]}"\naddress = 0x100000\nmemory = "4M"\n'
    file.write_text(head + levels)
    assert nestvmm("run", file).status == 0
    file.write_text(head + levels + level % 4)
    assert "64 levels of hypervisors" in nestvmm("run", file).failed(2)
    many = [word for _ in range(64) for word in ("--level", "debug-console")]
    assert "64 levels of hypervisors" in nestvmm("run", guest("hello"), *many).failed(2)

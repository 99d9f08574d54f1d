"""guests/ordinary: C compiled with plain -O2 prints at CPL 0 what it prints as a Linux program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command import GUESTS, guest, nestvmm
from patience import PATIENCE


@pytest.mark.kvm
def test_the_guest_prints_what_the_linux_program_prints(tmp_path: Path) -> None:
    program = tmp_path / "ordinary"
    source = GUESTS / "ordinary" / "work.c"
    subprocess.run(("cc", "-O2", source, "-o", program), check=True, timeout=PATIENCE)
    expected = subprocess.run((program,), check=True, capture_output=True, timeout=PATIENCE).stdout
    assert expected.count(b"\n") == 15
    ended = nestvmm("run", guest("ordinary"), "--timeout", "60")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.replace(b"\r", b"") == expected

"""The package as a whole."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import textwrap

import pytest

import nestvmm.kvm


@pytest.mark.kvm
def test_the_example_in_the_docstring_prints_what_it_says() -> None:
    documentation = nestvmm.kvm.__doc__ or ""
    start = documentation.index("    from nestvmm.kvm import")
    example = textwrap.dedent(documentation[start : documentation.index("prints `")])
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(example, {})
    assert output.getvalue().splitlines() == ["port 0x80: 5", "HltExit()"]


def test_nothing_slow_is_imported() -> None:
    code = "import sys, nestvmm.kvm; print([name for name in ('dataclasses', 'inspect') if name in sys.modules])"
    # -S: an editable install's finder is not part of the package
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"

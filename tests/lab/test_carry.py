"""What the VMX lab takes along."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path

import click
import pytest

from nestvmm.errors import HostError
from nestvmm.lab import carry
from nestvmm.lab.carry import PACKAGES, Luggage, pack_project, pack_python

ROOT = Path(__file__).parents[2]


def below(luggage: Luggage, root: Path) -> dict[str, bytes]:
    """What is packed from a directory on."""
    prefix = f"{root}/"[1:]
    return {path.removeprefix(prefix): node.data for path, node in luggage.nodes().items() if path.startswith(prefix)}


def test_a_path_through_links_brings_the_links_and_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/file").write_text("text")
    (tmp_path / "relative").symlink_to("real/../real/deep")
    (tmp_path / "absolute").symlink_to(tmp_path / "relative")
    luggage = Luggage()
    assert luggage.add(tmp_path / "absolute/file") == tmp_path / "real/deep/file"
    assert below(luggage, tmp_path) == {
        "absolute": os.fsencode(tmp_path / "relative"),
        "relative": b"real/../real/deep",
        "real": b"",
        "real/deep": b"",
        "real/deep/file": b"text",
    }


def test_modes_and_times_of_change_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o751)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    luggage = Luggage()
    luggage.add(path)
    node = luggage.nodes()[str(path)[1:]]
    assert (node.mode, node.changed) == (0o100751, 1_000_000_000)


def test_what_is_not_there_is_an_error_and_what_vanishes_is_not(tmp_path: Path) -> None:
    luggage = Luggage()
    with pytest.raises(FileNotFoundError):
        luggage.add(tmp_path / "none")
    (tmp_path / "soon gone").touch()
    luggage.add(tmp_path / "soon gone")
    (tmp_path / "soon gone").unlink()
    assert below(luggage, tmp_path) == {}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret").touch()
    luggage = Luggage()
    luggage.add(tmp_path / "secret")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(HostError, match=rf"cannot take along {tmp_path}/secret: Permission denied"):
        luggage.nodes()


def test_a_project_is_taken_without_what_is_hidden_made_anew_or_another_pythons(tmp_path: Path) -> None:
    tag = sys.implementation.cache_tag
    taken = ["a.py", "sub/b.py", f"__pycache__/a.{tag}.pyc", f"__pycache__/test_a.{tag}-pytest-9.0.pyc", "lib.so"]
    left = [".git/config", "build/a.py", "environment/pyvenv.cfg", "environment/x.py", "sub/.hidden/y"]
    left += [f"__pycache__/a.{tag}.opt-1.pyc", "__pycache__/a.cpython-27.pyc", "lib.a"]
    for name in taken + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "broken link").symlink_to("nowhere")
    luggage = Luggage()
    assert pack_project(luggage, tmp_path)
    assert {name for name, data in below(luggage, tmp_path).items() if data} == set(taken)


@pytest.mark.parametrize("limit", ["PROJECT_MAX", "PROJECT_FILES_MAX"])
def test_a_directory_that_holds_too_much_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(carry, limit, 2)
    for name in "abc":
        (tmp_path / name).write_text("x")
    luggage = Luggage()
    assert not pack_project(luggage, tmp_path)
    assert below(luggage, tmp_path) == {}


def test_a_program_brings_its_libraries() -> None:
    luggage = Luggage()
    luggage.add(Path("/bin/ls"))
    luggage.add_libraries()
    assert [name for name in luggage.nodes() if re.search(r"/libc\.so\.6$", name)]


def test_the_digest_changes_with_any_change(tmp_path: Path) -> None:
    def digest() -> str:
        luggage = Luggage()
        luggage.add_tree(tmp_path / "tree")
        return luggage.digest()

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_text("1")
    digests = [digest(), digest()]
    assert digests[0] == digests[1]
    (tmp_path / "tree/a").write_text("22")
    digests.append(digest())
    os.utime(tmp_path / "tree/a", (1, 1))
    digests.append(digest())
    (tmp_path / "tree/b").touch()
    digests.append(digest())
    (tmp_path / "tree/b").chmod(0o700)
    digests.append(digest())
    assert len(set(digests)) == 5
    os.utime(tmp_path / "tree", (1, 1))
    assert digest() == digests[-1]  # what changes a directory may be a file that is not taken along


def test_this_python_is_whole() -> None:
    luggage = pack_python()
    for path in (sys.executable, os.__file__, click.__file__, pytest.__file__):
        assert Path(path) in luggage


def test_the_packages_are_those_that_the_project_asks_for() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = list(project["dependencies"])
    wanted += [line for line in project["optional-dependencies"]["dev"] if re.match("(pytest|hypothesis)>", line)]
    assert sorted(re.split(">=", line)[0] for line in wanted) == sorted(PACKAGES)

"""The project itself: imports point down, exports resolve, files stay small and name no one's machine."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import nestvmm

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nestvmm"

# Lowest first. A package imports packages of lower layers only, not its neighbours.
LAYERS = [
    {"kvm"},
    {"x86"},
    {"devices", "loaders"},
    {"engines", "frontends", "hypervisors"},
    {"nesting"},
    {"lab", "stats", "trace"},
    {"bench"},
    {"report"},
    {"cli"},
    {"__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

# Packages with a counterpart in native/.
NATIVE_USERS = {"kvm", "x86", "devices", "engines", "frontends", "nesting", "stats", "trace", "bench"}

LINES_MAX = 450
# Written so that this file does not hold what it looks for.
FOREIGN = re.compile(
    "|".join(("/" + "(root|work|home)/", "pypi" + r"\.org", "debian" + r"\.org", "pythonhosted" + r"\."))
)


def pyproject() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def tracked_texts() -> dict[str, str]:
    """Every text file in git, by its path."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    contents = {name: (ROOT / name).read_bytes() for name in listing.stdout.split("\0") if (ROOT / name).is_file()}
    return {name: content.decode() for name, content in contents.items() if b"\0" not in content}


def imports(source: Path) -> set[str]:
    """What a module of nestvmm imports of nestvmm, as the first name after `nestvmm.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("nestvmm.")}
    return found


def importable(importer: str) -> set[str]:
    """What a package or top-level module of nestvmm may import."""
    if importer in {"__init__", "errors"}:
        return set()
    allowed = {importer} | {name for name, layer in LAYER.items() if layer < LAYER[importer]}
    if importer != "kvm":
        allowed.add("errors")
    if importer in NATIVE_USERS:
        allowed |= {"_native", "_dispatch"}
    return allowed


SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(nestvmm.__path__, "nestvmm.")
    if info.name.split(".")[-1] not in {"_native", "_dispatch", "__main__"}
)


@pytest.mark.parametrize("source", SOURCES, ids=[str(source.relative_to(PACKAGE)) for source in SOURCES])
def test_imports_point_down(source: Path) -> None:
    importer = source.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert importer in {"__init__", "errors"} | LAYER.keys(), "a new package needs its place in LAYERS"
    assert imports(source) - importable(importer) == set()


@pytest.mark.parametrize("name", MODULES)
def test_exports_resolve(name: str) -> None:
    module = importlib.import_module(name)
    exports = getattr(module, "__all__", None)
    if exports is None:
        assert hasattr(module, "__path__"), "only a package that re-exports nothing goes without __all__"
        assert imports(Path(str(module.__file__))) == set()
        return
    assert [export for export in exports if not hasattr(module, export)] == []
    assert len(set(exports)) == len(exports)


def test_every_dependency_has_a_lower_bound() -> None:
    project = pyproject()
    requirements = list(project["build-system"]["requires"])
    requirements += project["project"]["dependencies"]
    for extra in project["project"]["optional-dependencies"].values():
        requirements += extra
    assert [line for line in requirements if not re.fullmatch(r"[A-Za-z0-9_.-]+>=\d+(\.\d+)*", line)] == []


def test_no_file_is_too_long() -> None:
    lengths = {name: len(text.splitlines()) for name, text in tracked_texts().items()}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert found == []


def test_lines_end_cleanly() -> None:
    wrong = []
    for name, text in tracked_texts().items():
        wrong += [f"{name}:{number}" for number, line in enumerate(text.split("\n"), 1) if line != line.rstrip()]
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            wrong.append(f"{name}: ends without exactly one newline")
    assert wrong == []


def test_guests_readme_has_a_line_for_every_folder() -> None:
    folders = {Path(name).parts[1] for name in tracked_texts() if re.match(r"guests/[^/]+/", name)}
    assert folders
    readme = (ROOT / "guests" / "README.md").read_text()
    assert {folder for folder in folders if f"`{folder}`" not in readme and f"`{folder}/" not in readme} == set()


def documents() -> dict[str, str]:
    """Every document in git, by its path."""
    return {name: text for name, text in tracked_texts().items() if name.endswith(".md")}


def anchors(text: str) -> set[str]:
    """The headings of a document as links name them, `## The tower file` as the-tower-file."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    wrong = []
    for name, text in documents().items():
        for path, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", text):
            target = (ROOT / name).parent / path if path else ROOT / name
            if not target.is_file() or (anchor and anchor not in anchors(target.read_text())):
                wrong.append(f"{name}: {path}#{anchor}")
    assert wrong == []
    assert sum(text.count("README.md") for text in documents().values()) > 10


def test_documents_name_only_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name: set(re.findall(r"(?:^|`|&& )make ([a-z][a-z-]*)", text, re.MULTILINE)) - targets
        for name, text in documents().items()
    }
    assert {name: unknown for name, unknown in named.items() if unknown} == {}
    assert re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)[:2] == ["run", "test"]


def test_changelog_speaks_of_this_version() -> None:
    assert f"[{pyproject()['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()

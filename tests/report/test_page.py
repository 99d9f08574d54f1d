"""The page as who reads it has it: by eye, by ear, by keys, in light and in dark; nothing comes from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from command import environment, nestvmm
from playwright.sync_api import Browser, Page, sync_playwright
from samples import files

from nestvmm.bench.goals import GOALS, SWITCH_IN_C, SWITCH_IN_PYTHON
from nestvmm.report import page, read_inputs

STYLE = Path(__file__).parents[2] / "nestvmm" / "report" / "style.css"


class Outline(HTMLParser):
    """The headings' levels, and every attribute that fetches something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.named: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attrs:
            if name in {"src", "srcset", "data", "action"} or (name == "href" and not str(value).startswith("#")):
                self.fetched.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(str(value))
            if name in {"aria-labelledby", "href"}:
                self.named += str(value).removeprefix("#").split()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the command."""
    folder = tmp_path_factory.mktemp("report")
    ended = nestvmm("report", *files(folder), "-o", folder / "report.html", "--title", "A & B")
    assert (ended.status, ended.out, ended.err) == (0, b"", "")
    return folder / "report.html"


def test_it_is_one_file(report: Path) -> None:
    outline = Outline(report.read_text())
    assert outline.fetched == []
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert "url(" not in report.read_text()
    assert "@import" not in report.read_text()


def test_its_structure(report: Path) -> None:
    outline = Outline(report.read_text())
    assert outline.headings == [1, 2, 2, 3, 3, 3, 3, 3, 2, 3]
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.named) <= set(outline.ids)
    assert outline.tags.count("svg") == outline.tags.count("figure") == outline.tags.count("figcaption") == 6


def test_goals_by_their_worst_ratios(report: Path) -> None:
    text = report.read_text()
    lines = (re.findall(r"<t[hd].*?>(.*?)</t[hd]>", line) for line in text.splitlines() if line.startswith("<tr><th"))
    cells = {unescape(first): others for first, *others in lines}
    assert {goal.about: cells[goal.about][1] for goal in GOALS} == {goal.about: "not judged" for goal in GOALS} | {
        SWITCH_IN_C.about: "1.130, met",
        SWITCH_IN_PYTHON.about: "5.100, missed",
    }
    assert "2 of 3 ratios are within their goals" in text


def test_names_from_outside_are_text(report: Path) -> None:
    text = report.read_text()
    assert "&lt;script&gt;" in text
    assert "An &lt;i&gt;old&lt;/i&gt; processor" in text
    assert "<h1>A &amp; B</h1>" in text


def test_standard_output(tmp_path: Path) -> None:
    paths = files(tmp_path)
    ended = nestvmm("report", *paths, "-o", "-")
    assert ended.out.decode() == page(read_inputs(paths), "What nested exits cost")


def test_errors_are_one_message(tmp_path: Path) -> None:
    paths = files(tmp_path)
    assert "--output /none/x: No such file" in nestvmm("report", *paths, "-o", "/none/x").failed(2)
    assert "/none/y: No such file" in nestvmm("report", "/none/y").failed(2)
    assert "/dev/zero: not a regular file" in nestvmm("report", "/dev/zero").failed(2)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    """4.5 for text, 3 for what is drawn (WCAG 2.2, 1.4.3 and 1.4.11)."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", blocks[scheme]))
    assert len(colours) == 12
    for ground in colours["ground"], colours["raised"]:
        assert all(contrast(colours[name], ground) >= 4.5 for name in ("text", "faint", "link"))
    # and the names of parts are written in the colour of the ground
    assert all(contrast(colours[f"g{number}"], colours["ground"]) >= 4.5 for number in range(6))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None and not os.environ.get("NESTVMM_REQUIRE"):
        pytest.skip("Chromium is not installed")
    assert found is not None, "Chromium is not installed: .ci/apt-packages lab"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def shown(browser: Browser, report: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, in a window."""
    one = browser.new_page(color_scheme=request.param, viewport={"width": 1100, "height": 900})
    requests: list[str] = []
    errors: list[str] = []
    one.on("request", lambda asked: requests.append(asked.url))
    one.on("console", lambda message: errors.append(message.text))
    one.goto(report.as_uri())
    yield one
    assert requests == [report.as_uri()]
    assert errors == []
    one.close()


def test_axe_finds_nothing(shown: Page) -> None:
    shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    result = Axe().run(shown)
    assert [(one["id"], one["nodes"][0]["html"]) for one in result.response["violations"]] == []
    passed = {one["id"] for one in result.response["passes"]}
    assert {"color-contrast", "svg-img-alt", "heading-order", "html-has-lang", "td-headers-attr"} <= passed


def test_everything_is_reached_by_keys(shown: Page) -> None:
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.className") == "skip"
    assert shown.locator(".skip").bounding_box()["x"] > 0  # type: ignore[index]
    reached: list[Any] = []
    for _ in range(40):
        shown.keyboard.press("Tab")
        reached.append(
            shown.evaluate("document.activeElement.tagName + ' ' + document.activeElement.textContent.trim()")
        )
    for details in range(shown.locator("summary").count()):
        text = shown.locator("summary").nth(details).inner_text()
        assert f"SUMMARY {text}" in reached
    summary = shown.locator("summary").last
    summary.focus()
    shown.keyboard.press("Enter")
    assert shown.locator("details").last.get_attribute("open") is not None


def test_pictures_have_their_words(shown: Page) -> None:
    for svg in shown.locator("svg").all():
        names = [shown.locator(f"#{name}").inner_text() for name in str(svg.get_attribute("aria-labelledby")).split()]
        assert len(names) == 2
        assert all(names)
        assert svg.get_attribute("role") == "img"


def test_colours_follow_the_system(shown: Page, request: pytest.FixtureRequest) -> None:
    ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    wanted = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 28)"}
    assert ground == wanted[request.node.callspec.params["shown"]]
    assert len(shown.screenshot()) > 20_000


def test_a_narrow_window_scrolls_pictures_and_not_the_page(browser: Browser, report: Path) -> None:
    narrow = browser.new_page(viewport={"width": 360, "height": 700})
    narrow.goto(report.as_uri())
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360
    result = Axe().run(narrow)
    assert result.violations_count == 0
    assert "scrollable-region-focusable" in {one["id"] for one in result.response["passes"]}
    narrow.close()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_files_name_that_is_no_text(tmp_path: Path, encoding: str) -> None:
    file = files(tmp_path)[0].rename(tmp_path / b"\xff.json".decode(errors="surrogateescape"))
    (tmp_path / "temporary").mkdir()
    env = {**environment(str(tmp_path / "temporary")), "PYTHONIOENCODING": encoding}
    printed = nestvmm("report", file, "-o", "-", "--title", "ä", env=env)
    assert (printed.status, printed.err, b"(?.json)" in printed.out) == (0, "", True)
    assert "<h1>ä</h1>" in printed.out.decode()
    assert nestvmm("report", file, "-o", tmp_path / "page.html", "--title", "ä", env=env).status == 0
    assert (tmp_path / "page.html").read_bytes() == printed.out

"""The page: HTML that needs nothing else, no script either; each picture has its words and its table."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files

from nestvmm.bench import Document
from nestvmm.report.drawing import draw
from nestvmm.report.exits import account_figure
from nestvmm.report.figure import Figure, Table
from nestvmm.report.figures import bench_figures, number
from nestvmm.report.inputs import Inputs, RunAccount

__all__ = ["figures_of", "page"]


def figures_of(inputs: Inputs) -> list[Figure]:
    """All figures, in the order of the page."""
    return [figure for *_, figures in _sections(inputs) for figure in figures]


def page(inputs: Inputs, title: str) -> str:
    """The whole of it."""
    sections = list(_sections(inputs))
    style = (files("nestvmm.report") / "style.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, *_ in sections)
    body = "\n".join(_section(*section) for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">To the contents</a>\n'
        f"<header>\n<h1>{escape(title)}</h1>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n</header>\n'
        f'<main id="main">\n{body}\n</main>\n'
        f"<footer><p>Made by <code>nestvmm report</code>. Figures are medians; 95 % is the median's interval by order "
        f"statistics. Only figures of one run on one machine are to be compared with each other.</p></footer>\n"
        f"</body>\n</html>\n"
    )


def _sections(inputs: Inputs) -> Iterator[tuple[str, str, str, list[Figure]]]:
    """Name, heading, what stands before the figures, the figures."""
    for key, (name, document) in enumerate(inputs.documents):
        heading = f"Benchmark: {document.environment.machine} ({name})"
        yield f"bench-{key}", heading, _about(name, document), bench_figures(document, str(key))
    for key, account in enumerate(inputs.accounts):
        figure = account_figure(account, str(key))
        yield f"account-{key}", f"Run: {account.name}", _about_run(account), [] if figure is None else [figure]


def _section(name: str, heading: str, about: str, figures: list[Figure]) -> str:
    shown = "\n".join(map(_figure, figures)) or "<p>There is nothing to draw.</p>"
    head = f'<h2 id="{name}-h">{escape(heading)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-h">\n{head}\n{about}\n{shown}\n</section>'


def _figure(figure: Figure) -> str:
    table = _table(figure.table, figure.title)
    return (
        f'<h3 id="{figure.name}-title">{escape(figure.title)}</h3>\n<figure>\n'
        f"{_scrolling(draw(figure), f'{figure.title}: picture')}\n"
        f'<figcaption id="{figure.name}-text">{escape(figure.text)}</figcaption>\n</figure>\n'
        f"<details><summary>The figures of: {escape(figure.title)}</summary>\n"
        f"{_scrolling(table, f'{figure.title}: table')}\n</details>"
    )


def _scrolling(content: str, name: str) -> str:
    """What may be wider than the page; who has no pointer scrolls it by keys."""
    return f'<div class="scroll" role="group" tabindex="0" aria-label="{escape(name)}">\n{content}\n</div>'


def _table(table: Table, caption: str) -> str:
    def attributes(column: int) -> str:
        return ' class="number"' if column in table.numbers else ""

    head = "".join(f'<th scope="col"{attributes(n)}>{escape(text)}</th>' for n, text in enumerate(table.head))
    rows = []
    for first, *others in table.rows:
        cells = "".join(f"<td{attributes(n)}>{escape(text)}</td>" for n, text in enumerate(others, start=1))
        rows.append(f'<tr><th scope="row"{attributes(0)}>{escape(first)}</th>{cells}</tr>')
    return (
        f"<table><caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table>"
    )


def _about(name: str, document: Document) -> str:
    environment = document.environment
    clock = "counts instructions (icount)" if environment.icount else f"{number(environment.tsc_mhz)} MHz"
    known = {program: version for program, version in document.versions.items() if version is not None}
    pairs = [
        ("processor", f"{environment.cpu}, {environment.cpus} of them"),
        ("TSC", clock),
        ("kernel", environment.kernel),
        *((program, str(version)) for program, version in known.items()),
        ("command", "nestvmm " + " ".join(document.command)),
        ("measured", f"{document.started}, for {document.seconds:.0f} s"),
    ]
    parameters = tuple(
        (module, parameter, value)
        for module, values in sorted(environment.kvm.items())
        for parameter, value in sorted(values.items())
    )
    text = _scrolling(_table(Table(("property", "value"), tuple(pairs)), "environment"), f"environment of {name}")
    if parameters:
        table = _table(Table(("module", "parameter", "value"), parameters), "parameters of KVM")
        text += f"\n<details><summary>Parameters of KVM</summary>\n{_scrolling(table, 'parameters of KVM')}\n</details>"
    return text + _goals(document)


def _goals(document: Document) -> str:
    """What was compared with a goal."""
    rows = tuple(
        (
            f"{row.case}: {row.what}",
            row.against,
            f"{row.ratio:.3f}",
            "" if row.ratio_low is None or row.ratio_high is None else f"{row.ratio_low:.3f} to {row.ratio_high:.3f}",
            f"at most {row.goal:.2f}",
            "met" if row.met else "missed",
        )
        for row in document.rows
        if row.goal is not None and row.ratio is not None
    )
    if not rows:
        return ""
    met = sum(row[-1] == "met" for row in rows)
    shown = _table(Table(("what", "against", "ratio", "95 %", "goal", "result"), rows, frozenset((2, 3, 4))), "goals")
    return (
        f"\n<details><summary>{met} of {len(rows)} goals are met</summary>\n"
        f"{_scrolling(shown, 'ratios and goals')}\n</details>"
    )


def _about_run(account: RunAccount) -> str:
    return (
        f'<p class="faint">{account.exits:,} exits of L{account.height} in {account.seconds:.3f} s, '
        f"{escape(account.engine)} engine.</p>"
    )

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
from nestvmm.report.goals import goals_of_all, goals_of_one
from nestvmm.report.inputs import Inputs, RunAccount
from nestvmm.report.tables import folded, scrolling, table_of

__all__ = ["figures_of", "page"]


def figures_of(inputs: Inputs) -> list[Figure]:
    """All figures, in the order of the page."""
    return [figure for *_, figures in _sections(inputs) for figure in figures or ()]


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


def _sections(inputs: Inputs) -> Iterator[tuple[str, str, str, list[Figure] | None]]:
    """Name, heading, what stands before the figures, the figures; None: it is not for them."""
    if inputs.documents:
        yield "goals", "Goals", goals_of_all(inputs.documents), None
    for key, (name, document) in enumerate(inputs.documents):
        heading = f"Benchmark: {document.environment.machine} ({name})"
        yield f"bench-{key}", heading, _about(name, document), bench_figures(document, str(key))
    for key, account in enumerate(inputs.accounts):
        figure = account_figure(account, str(key))
        yield f"account-{key}", f"Run: {account.name}", _about_run(account), [] if figure is None else [figure]


def _section(name: str, heading: str, about: str, figures: list[Figure] | None) -> str:
    parts = [f'<h2 id="{name}-h">{escape(heading)}</h2>', about, *map(_figure, figures or ())]
    if figures == []:
        parts.append("<p>There is nothing to draw.</p>")
    body = "\n".join(parts)
    return f'<section id="{name}" aria-labelledby="{name}-h">\n{body}\n</section>'


def _figure(figure: Figure) -> str:
    table = table_of(figure.table, figure.title, f"{figure.title}: table")
    return (
        f'<h3 id="{figure.name}-title">{escape(figure.title)}</h3>\n<figure>\n'
        f"{scrolling(draw(figure), f'{figure.title}: picture')}\n"
        f'<figcaption id="{figure.name}-text">{escape(figure.text)}</figcaption>\n</figure>\n'
        f"{folded(f'The figures of: {figure.title}', table)}"
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
    parts = [table_of(Table(("property", "value"), tuple(pairs)), "environment", f"environment of {name}")]
    if parameters:
        table = Table(("module", "parameter", "value"), parameters)
        parts.append(folded("Parameters of KVM", table_of(table, "parameters of KVM", "parameters of KVM")))
    return "\n".join(part for part in (*parts, goals_of_one(document)) if part)


def _about_run(account: RunAccount) -> str:
    return (
        f'<p class="faint">{account.exits:,} exits of L{account.height} in {account.seconds:.3f} s, '
        f"{escape(account.engine)} engine.</p>"
    )

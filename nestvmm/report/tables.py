"""Tables as HTML."""

from __future__ import annotations

from html import escape

from nestvmm.report.figure import Table

__all__ = ["folded", "scrolling", "table_of"]


def table_of(table: Table, caption: str, name: str) -> str:
    """A table that scrolls by itself; name: what it is called where nobody sees it."""

    def attributes(column: int) -> str:
        return ' class="number"' if column in table.numbers else ""

    head = "".join(f'<th scope="col"{attributes(n)}>{escape(text)}</th>' for n, text in enumerate(table.head))
    rows = []
    for first, *others in table.rows:
        cells = "".join(f"<td{attributes(n)}>{escape(text)}</td>" for n, text in enumerate(others, start=1))
        rows.append(f'<tr><th scope="row"{attributes(0)}>{escape(first)}</th>{cells}</tr>')
    return scrolling(
        f"<table><caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table>",
        name,
    )


def scrolling(content: str, name: str) -> str:
    """What may be wider than the page; who has no pointer scrolls it by keys."""
    return f'<div class="scroll" role="group" tabindex="0" aria-label="{escape(name)}">\n{content}\n</div>'


def folded(summary: str, content: str) -> str:
    """Shown when it is asked for."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"

"""Where tables are printed."""

from __future__ import annotations

from typing import IO, NoReturn

from rich.console import Console

__all__ = ["PlainConsole"]


class PlainConsole(Console):
    """Prints what it is given as it is: names are their owners', and nothing in them is markup.

    file:   standard output unless told
    width:  in columns, where that is no terminal: lines are for grep
    least:  of a terminal, which breaks longer lines itself; no figure is cut short
    """

    def __init__(self, file: IO[str] | None = None, *, width: int, least: int = 0) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False)
        self.width = max(self.width, least) if self.is_terminal else width

    def on_broken_pipe(self) -> NoReturn:
        """The command's end is main's to say, not that of rich."""
        raise BrokenPipeError

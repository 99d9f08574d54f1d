"""A conversation with a command: each answer is typed once its prompt has come, as a person at the console would."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

from nestvmm.lab.session import Input

__all__ = ["Dialogue"]


class Dialogue(Input):
    """A command's standard input and what takes its output, which can begin anew; a context manager.

    Args:
        exchanges: prompts and the answers to them, in order. An answer waits in a pipe until the command reads it, so
            all of them together are at most 64 KiB (pipe(7)).

    Attributes:
        stdout, stderr: what the command has said.
    """

    def __init__(self, exchanges: Sequence[tuple[bytes, bytes]]) -> None:
        self._exchanges = exchanges
        self._ears, self._mouth = os.pipe()
        super().__init__(self._ears)
        self.stdout = b""
        self.stderr = b""
        self._answered = 0
        self._seen = 0  # of stdout, when the last answer was typed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._ears)
        os.close(self._mouth)

    def hear(self, stream: int, data: bytes) -> None:
        """Takes output, as a `nestvmm.lab.Output`, and types what it asks for."""
        if stream == 2:
            self.stderr += data
            return
        self.stdout += data
        while self._answered < len(self._exchanges):
            prompt, answer = self._exchanges[self._answered]
            if prompt not in self.stdout[self._seen :]:
                break
            self._seen = len(self.stdout)
            self._answered += 1
            os.write(self._mouth, answer)

    def rewind(self) -> bool:
        """Always: what was typed and not read is taken back."""
        os.set_blocking(self._ears, False)
        try:
            while os.read(self._ears, 1 << 16):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(self._ears, True)
        self.wanted = False
        self.stdout = self.stderr = b""
        self._answered = self._seen = 0
        return True

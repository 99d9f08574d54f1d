"""Answers who asks a run for its counters: one line of JSON for each byte that comes."""

from __future__ import annotations

import json
import os
import selectors
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from nestvmm.stats.runtime import folder, open_folder, sweep
from nestvmm.stats.snapshot import Meter

__all__ = ["serve"]

# More clients than this are sent away.
_CLIENTS = 8
_TRIES = 3


def serve(meter: Meter, done: int) -> None:
    """Until the descriptor `done` is at its end; where there is no place for a socket, nobody can ask."""
    path = folder()
    with suppress(OSError), ExitStack() as stack:
        listener = _listen(path, stack)
        clients: set[socket.socket] = set()
        stack.callback(_close, clients)
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(done, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == done:
                    return
                if key.fileobj is listener:
                    _accept(listener, selector, clients)
                elif isinstance(key.fileobj, socket.socket) and not _answer(key.fileobj, meter):
                    selector.unregister(key.fileobj)
                    clients.discard(key.fileobj)
                    key.fileobj.close()


def _close(clients: set[socket.socket]) -> None:
    for client in clients:
        client.close()


def _listen(path: Path, stack: ExitStack) -> socket.socket:
    """The socket, which is removed when the stack closes, with the folder if that is empty then."""
    sweep(path)
    for left in reversed(range(_TRIES)):
        try:
            # another run may have removed the folder in between
            path.mkdir(mode=0o700, exist_ok=True)
            with open_folder(path) as short:
                listener = stack.enter_context(
                    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
                )
                # under its name it answers: who finds one that does not removes it
                unnamed = short / f".{os.getpid()}"
                unnamed.unlink(missing_ok=True)
                listener.bind(str(unnamed))
                listener.listen(_CLIENTS)
                unnamed.rename(short / str(os.getpid()))
                break
        except FileNotFoundError:
            if not left:
                raise
    stack.callback(_remove, path)
    return listener


def _remove(path: Path) -> None:
    with suppress(OSError):
        (path / str(os.getpid())).unlink()
        path.rmdir()


def _accept(listener: socket.socket, selector: selectors.BaseSelector, clients: set[socket.socket]) -> None:
    with suppress(OSError):
        client, _ = listener.accept()
        if len(clients) >= _CLIENTS:
            client.close()
            return
        client.setblocking(False)
        clients.add(client)
        selector.register(client, selectors.EVENT_READ)


def _answer(client: socket.socket, meter: Meter) -> bool:
    """False: it has gone, or does not read what it asked for."""
    try:
        if not client.recv(64):
            return False
        answer = json.dumps(meter.read().as_dict()).encode() + b"\n"
        return client.send(answer) == len(answer)
    except OSError:
        return False

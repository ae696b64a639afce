"""Containers that wait: whoever touches one, or whatever comes on its stream, ends the wait."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

from .attach import hang_up
from .boxes import Box, close_box
from .engine import CHECK_SECONDS, Engine
from .lines import Line, opened_events

_CHUNK = 64 << 10
_MOST_BYTES = 1 << 20
_OURS = {"create", "attach", "start"}
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError)


class IdleStreams:
    """Hangs up on a container that ends or says something before it has a job, and tells what somebody did to any.

    label: what all containers of this manager have. ended: called on the loop when it hung up, and with the ids of
    containers that were paused, changed, stopped, …; those of jobs are among them.
    """

    def __init__(self, engine: Engine, *, label: str, ended: Callable[[Collection[str]], None]) -> None:
        self._engine = engine
        self._label = label
        self._ended = ended
        # descriptors of our own, closed on the loop alone: a box may be closed by any thread at any time
        self._copies: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._events: Line | None = None
        self._unread = b""

    def watch(self, make: Callable[[], Box], loop: asyncio.AbstractEventLoop) -> Box:
        """Make a box and look at it until `release`. Blocks; raises as `make`, `EngineUnavailable`, `EngineRefused`."""
        with self._lock:  # before it is there: what happens to it then is told
            if self._events is None:
                self._events = self._engine.ask(self._open, seconds=CHECK_SECONDS)
                loop.call_soon_threadsafe(self._listen, self._events)
        box = make()
        try:
            self._copies[box.id] = socket.socket(fileno=os.dup(box.connection.fileno()))
        except OSError:
            close_box(self._engine, box)
            raise
        loop.call_soon_threadsafe(self._begin, box.id)
        return box

    def release(self, box: Box) -> None:
        """Somebody reads it from now on. On the loop, as all that follows."""
        self._forget(box.id)

    def close(self) -> None:
        """Look no more; nothing is made any more."""
        for name in list(self._copies):
            self._forget(name)
        self._end_events()

    def _open(self, client: Any) -> Line:
        return opened_events(client, {"type": ["container"], "label": [self._label]}, seconds=CHECK_SECONDS)

    def _listen(self, line: Line) -> None:
        if line is self._events:
            asyncio.get_running_loop().add_reader(line.stream, self._told, line)

    def _told(self, line: Line) -> None:
        try:
            data = line.stream.recv(_CHUNK)
        except _NOT_YET:
            return
        except OSError:
            data = b""
        *whole, self._unread = (self._unread + data).split(b"\n")
        touched = {name for name, action in _events(whole) if action not in _OURS}
        if not data or len(self._unread) > _MOST_BYTES:
            self._end_events()
            touched = set(self._copies)  # nobody tells any more what becomes of them
        if touched:
            self._ended(touched)

    def _end_events(self) -> None:
        with self._lock:
            line, self._events = self._events, None
        self._unread = b""
        if line is not None:
            asyncio.get_running_loop().remove_reader(line.stream)
            line.end()

    def _begin(self, name: str) -> None:
        copy = self._copies.get(name)
        if copy is not None:  # a job may have it already, whose stream is not ours to end
            asyncio.get_running_loop().add_reader(copy, self._spoke, name)

    def _spoke(self, name: str) -> None:
        hang_up(self._copies[name])
        self._forget(name)
        self._ended(())

    def _forget(self, name: str) -> None:
        copy = self._copies.pop(name, None)
        if copy is not None:
            asyncio.get_running_loop().remove_reader(copy)
            copy.close()


def _events(lines: list[bytes]) -> Iterator[tuple[str, str]]:
    """The containers' ids and what became of each. What is between the lines is HTTP's: the sizes of its chunks."""
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            yield event["Actor"]["ID"], event["Action"]

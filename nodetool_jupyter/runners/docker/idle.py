"""Streams that nobody reads, since their containers wait: whatever comes on one ends it, long before it is full."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from .attach import hang_up
from .boxes import Box


class IdleStreams:
    """Hangs up on a container that ends or says something before it has a job. ended: called on the loop then."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        # descriptors of our own, closed on the loop alone: a box may be closed by any thread at any time
        self._copies: dict[str, socket.socket] = {}

    def watch(self, box: Box, loop: asyncio.AbstractEventLoop) -> Box:
        """Look at the box's stream until `release`. From any thread."""
        loop.call_soon_threadsafe(self._begin, box.id, socket.socket(fileno=os.dup(box.connection.fileno())))
        return box

    def release(self, box: Box) -> None:
        """Somebody reads it from now on. On the loop, as all that follows."""
        self._forget(box.id)

    def close(self) -> None:
        """Look no more."""
        for name in list(self._copies):
            self._forget(name)

    def _begin(self, name: str, copy: socket.socket) -> None:
        self._copies[name] = copy
        asyncio.get_running_loop().add_reader(copy, self._spoke, name)

    def _spoke(self, name: str) -> None:
        hang_up(self._copies[name])
        self._forget(name)
        self._ended()

    def _forget(self, name: str) -> None:
        copy = self._copies.pop(name, None)
        if copy is not None:
            asyncio.get_running_loop().remove_reader(copy)
            copy.close()

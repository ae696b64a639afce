"""Notices that the engine ended, even if it is back before anybody asks it something."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from .engine import CHECK_SECONDS, Engine, EngineRefused, EngineUnavailable
from .images import Images
from .lines import Line, opened_events

_CHUNK = 64 << 10
_ENDED = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Watch:
    """A connection that stays open as long as the engine lives: its stream of what happens to images.

    As long as it stands, what is known of the engine and its images needs no asking. `stood` counts how often it
    stood anew; a job that began under another number has seen an engine go. `ended` is called on the loop when the
    engine has gone. Made on the manager's loop.
    """

    def __init__(self, engine: Engine, images: Images, *, ended: Callable[[], None]) -> None:
        self._engine = engine
        self._images = images
        self._ended = ended
        self._lock = threading.Lock()
        self._line: Line | None = None
        self.stood = 0

    def ensure(self, loop: asyncio.AbstractEventLoop) -> int:
        """Have it stand; its number. Blocks. Raises `EngineUnavailable`, `EngineRefused`."""
        with self._lock:
            if self._line is None:
                line = self._engine.ask(self._open, seconds=CHECK_SECONDS)
                self.stood += 1
                self._line = line
                self._engine.watched = True
                self._images.watched()
                loop.call_soon_threadsafe(self._listen, self._line)
            return self.stood

    def same(self, number: int) -> bool:
        """Whether the engine of this number is still there and takes new calls. Blocks.

        An engine that is ending takes none, long before its connections end.
        """
        try:
            self._engine.ping()
        except (EngineUnavailable, EngineRefused):
            return False
        with self._lock:
            return self.stood == number and self._line is not None and not _has_ended(self._line.stream)

    @property
    def stands(self) -> bool:
        """Whether the engine has not been seen to go."""
        return self._line is not None

    def close(self) -> None:
        """Watch no more; on the loop."""
        with self._lock:
            line, self._line = self._line, None
            self._engine.watched = False
            self._images.unwatched()
        if line is not None:
            self._forget(line)

    def _open(self, client: Any) -> Line:
        return opened_events(client, {"type": ["image"]}, seconds=CHECK_SECONDS)

    def _listen(self, line: Line) -> None:
        if line is self._line:
            asyncio.get_running_loop().add_reader(line.stream, self._take, line)

    def _take(self, line: Line) -> None:
        try:
            data = line.stream.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._engine.forget()
            self._ended()
        else:
            self._images.changed()

    def _forget(self, line: Line) -> None:
        asyncio.get_running_loop().remove_reader(line.stream)
        line.end()


def _has_ended(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), _ENDED)
    return bool(poll.poll(0))

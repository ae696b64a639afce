"""Containers that wait for their job: each is used once, few wait, and none waits long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from .boxes import Box

_MOST_PER_KEY = 2
_MOST = 4
IDLE_SECONDS = 300.0


@dataclass(frozen=True)
class _Waiting:
    key: str
    box: Box
    since: float


class StandbyPool:
    """Keeps boxes ready by key. On the manager's loop, but for making and closing, which block in threads."""

    def __init__(self, executor: ThreadPoolExecutor, close: Callable[[Box], None]) -> None:
        self._executor = executor
        self._close = close
        self._waiting: list[_Waiting] = []
        self._coming: dict[Future[Box], str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, key: str) -> Box | None:
        """A box that waits under this key and still lives."""
        for waiting in [one for one in self._waiting if one.key == key]:
            self._waiting.remove(waiting)
            if waiting.box.alive():
                return waiting.box
            self._discard(waiting.box)
        return None

    def refill(self, key: str, make: Callable[[], Box]) -> None:
        """Have one more ready under this key, unless enough are; makes room by giving up the oldest of others."""
        mine = sum(one.key == key for one in self._waiting) + sum(one == key for one in self._coming.values())
        if self._closed or mine >= _MOST_PER_KEY:
            return
        while len(self._waiting) + len(self._coming) >= _MOST and self._waiting:
            self._discard(self._waiting.pop(0).box)
        loop = asyncio.get_running_loop()
        future = self._executor.submit(make)
        self._coming[future] = key
        future.add_done_callback(lambda done: _post(loop, self._arrived, done))

    def _arrived(self, future: Future[Box]) -> None:
        key = self._coming.pop(future)
        if future.exception() is not None:  # the next job of the kind is told why, when it starts without
            return
        if self._closed:  # its container goes with the owner's others, which are removed when nothing is made any more
            future.result().connection.close()
            return
        self._waiting.append(_Waiting(key, future.result(), time.monotonic()))
        self._watch()

    def _watch(self) -> None:
        if self._timer is None and self._waiting and not self._closed:
            due = self._waiting[0].since + IDLE_SECONDS - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due), self._expire)

    def _expire(self) -> None:
        self._timer = None
        while self._waiting and time.monotonic() - self._waiting[0].since >= IDLE_SECONDS:
            self._discard(self._waiting.pop(0).box)
        self._watch()

    def _discard(self, box: Box) -> None:
        self._executor.submit(self._close, box)

    def empty(self) -> None:
        """Close every box; no box is taken or made after. Those that are still being made are left to the owner."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        for waiting in self._waiting:
            self._discard(waiting.box)
        self._waiting.clear()


def _post(loop: asyncio.AbstractEventLoop, function: Callable[[Future[Box]], None], done: Future[Box]) -> None:
    try:
        loop.call_soon_threadsafe(function, done)
    except RuntimeError:  # the loop is closed: the sweep of the next manager, or the supervisor, removes it
        return

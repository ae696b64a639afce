"""Containers that wait for their job: each is used once, few wait, and none waits long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from ..base import WorkerNotStarted
from .boxes import Box
from .engine import CallOff

_MOST_PER_KEY = 2
_MOST = 4
_LOOK_SECONDS = 0.25
IDLE_SECONDS = 300.0


@dataclass(frozen=True)
class _Waiting:
    key: str
    box: Box
    since: float


class StandbyPool:
    """Keeps boxes ready by key. `take` is for the threads that start jobs, the rest for the manager's loop."""

    def __init__(self, executor: ThreadPoolExecutor, close: Callable[[Box], None]) -> None:
        self._executor = executor
        self._close = close
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._coming: dict[Future[Box], str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, key: str, stop: CallOff) -> Box | None:
        """A box under this key that still lives; one that is on its way is waited for, until `stop` is set."""
        while (waiting := self._next(key)) is not None:
            if waiting.alive():
                return waiting
            self._discard(waiting)
        coming = self._claim(key)
        if coming is None:
            return None
        while not stop.is_set():
            try:
                return coming.result(_LOOK_SECONDS)
            except TimeoutError:
                continue
            except (WorkerNotStarted, CancelledError):  # who starts without is told why
                return None
        coming.add_done_callback(self._unwanted)
        return None

    def _next(self, key: str) -> Box | None:
        with self._lock:
            found = next((one for one in self._waiting if one.key == key), None)
            if found is None:
                return None
            self._waiting.remove(found)
            return found.box

    def _claim(self, key: str) -> Future[Box] | None:
        with self._lock:
            found = next((future for future, whose in self._coming.items() if whose == key), None)
            if found is not None:
                del self._coming[found]
            return found

    def _unwanted(self, future: Future[Box]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._discard(future.result())

    def refill(self, key: str, make: Callable[[], Box]) -> None:
        """Have one more ready under this key, unless enough are; makes room by giving up the oldest of others."""
        with self._lock:
            mine = sum(one.key == key for one in self._waiting) + sum(one == key for one in self._coming.values())
            if self._closed or mine >= _MOST_PER_KEY:
                return
            given_up = []
            while len(self._waiting) + len(self._coming) >= _MOST and self._waiting:
                given_up.append(self._waiting.pop(0).box)
            future = self._executor.submit(make)
            self._coming[future] = key
        for box in given_up:
            self._discard(box)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda done: _post(loop, self._arrived, done))

    def _arrived(self, future: Future[Box]) -> None:
        with self._lock:
            key = self._coming.pop(future, None)  # None: a job waits for it
            if key is None or future.cancelled() or future.exception() is not None:
                return
            if not self._closed:
                self._waiting.append(_Waiting(key, future.result(), time.monotonic()))
        if self._closed:
            self._discard(future.result())
        self._watch()

    def _watch(self) -> None:
        with self._lock:
            first = self._waiting[0].since if self._waiting else None
        if self._timer is None and first is not None and not self._closed:
            due = first + IDLE_SECONDS - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        with self._lock:
            old = [one for one in self._waiting if now - one.since >= IDLE_SECONDS]
            self._waiting = [one for one in self._waiting if one not in old]
        for one in old:
            self._discard(one.box)
        self._watch()

    def _discard(self, box: Box) -> None:
        with suppress(RuntimeError):  # the runner is closing, and removes by label what is left
            self._executor.submit(self._close, box)
            return
        box.connection.close()

    def empty(self) -> None:
        """Close every box, those that are still being made as they come. No box is taken or made after."""
        if self._timer:
            self._timer.cancel()
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            self._discard(one.box)


def _post(loop: asyncio.AbstractEventLoop, function: Callable[[Future[Box]], None], done: Future[Box]) -> None:
    try:
        loop.call_soon_threadsafe(function, done)
    except RuntimeError:  # the loop is closed: the sweep of the next manager, or the supervisor, removes it
        return

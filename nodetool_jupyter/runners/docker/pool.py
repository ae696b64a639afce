"""Containers that wait for their job: each is used once, few wait, and none waits long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from ..base import WorkerNotStarted
from .boxes import Box
from .engine import CallOff, EngineRefused, EngineUnavailable

_MOST_PER_KEY = 2
_MOST = 4
_LOOK_SECONDS = 0.05
IDLE_SECONDS = 300.0


@dataclass(frozen=True, eq=False)
class _Waiting:
    key: str
    box: Box
    since: float


class _Coming:
    """A box that is being made; a job that claims it gets it, or nothing."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.claimed = False
        self.box: Box | None = None
        self.done = threading.Event()


class StandbyPool:
    """Keeps boxes ready by key. `refill` on the manager's loop, all else from any thread; boxes are made in threads."""

    def __init__(self, executor: Executor, close: Callable[[Box], None]) -> None:
        self._executor = executor
        self._close = close
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._coming: list[_Coming] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stop = CallOff()

    def take(self, key: str, stop: CallOff) -> Box | None:
        """A box under this key that still lives; one that is on its way is waited for, until `stop` is set."""
        while (waiting := self._next(key)) is not None:
            if waiting.alive():
                return waiting
            self._close(waiting)
        with self._lock:
            coming = next((one for one in self._coming if one.key == key and not one.claimed), None)
            if coming is None:
                return None
            coming.claimed = True
        while not coming.done.wait(_LOOK_SECONDS):
            with self._lock:
                if stop.is_set() and not coming.done.is_set():
                    coming.claimed = False
                    return None
        return coming.box

    def _next(self, key: str) -> Box | None:
        with self._lock:
            found = next((one for one in self._waiting if one.key == key), None)
            if found is None:
                return None
            self._waiting.remove(found)
            return found.box

    def refill(self, key: str, make: Callable[[CallOff], Box]) -> None:
        """Have one more ready under this key, unless enough are; makes room by giving up the oldest of others."""
        with self._lock:
            mine = sum(one.key == key for one in self._waiting) + sum(one.key == key for one in self._coming)
            if self._stop.is_set() or mine >= _MOST_PER_KEY:
                return
            room = _MOST - len(self._coming) - 1
            surplus = [self._waiting.pop(0) for _ in range(max(0, len(self._waiting) - max(0, room)))]
            coming = _Coming(key)
            self._coming.append(coming)
            self._executor.submit(self._make, coming, make)
            for one in surplus:
                self._executor.submit(self._close, one.box)
        self._watch()

    def _make(self, coming: _Coming, make: Callable[[CallOff], Box]) -> None:
        box = None
        # why there is none, the next job of the kind is told when it starts without
        with suppress(WorkerNotStarted, EngineRefused, EngineUnavailable, OSError):
            box = make(self._stop)
        with self._lock:
            self._coming.remove(coming)
            if coming.claimed:
                coming.box = box
            coming.done.set()
            if coming.claimed:
                return
            if box is not None and not self._stop.is_set() and box.alive():
                self._waiting.append(_Waiting(coming.key, box, time.monotonic()))
                return
        if box is not None:
            self._close(box)

    def _watch(self, seconds: float = IDLE_SECONDS) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._drop(lambda one: now - one.since >= IDLE_SECONDS)
        if self._waiting or self._coming:
            oldest = min((one.since for one in self._waiting), default=now)
            self._watch(oldest + IDLE_SECONDS - now)

    def drop_dead(self) -> None:
        """Give up the boxes that have ended, as all do with their engine."""
        self._drop(lambda one: not one.box.alive())

    def _drop(self, which: Callable[[_Waiting], bool]) -> None:
        with self._lock:
            if self._stop.is_set():
                return
            for one in [one for one in self._waiting if which(one)]:
                self._waiting.remove(one)
                self._executor.submit(self._close, one.box)

    def empty(self) -> None:
        """Close every box, those that are still being made as they come; no box is taken or made after."""
        self._stop.set()
        if self._timer:
            self._timer.cancel()
        with self._lock:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                self._executor.submit(self._close, one.box)

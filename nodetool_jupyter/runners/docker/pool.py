"""Containers that wait for their job: each is used once, few wait, and none waits long."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from ..base import WorkerNotStarted
from .boxes import Box
from .engine import CallOff, EngineRefused, EngineUnavailable

_MOST_PER_KEY = 2
_MOST = 4
_LOOK_SECONDS = 0.05
_AGAIN_SECONDS = 0.05
_GONE_SECONDS = 10.0
_MOST_TOUCHED = 1000  # that nobody may have got yet
IDLE_SECONDS = 300.0


@dataclass(frozen=True, eq=False)
class _Waiting:
    key: str
    box: Box
    since: float


class _Coming:
    """A box that is being made; a job that claims it gets it, or nothing. gone: it is made, and not unwanted."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.claimed = False
        self.box: Box | None = None
        self.stop = CallOff()
        self.done = threading.Event()
        self.gone = threading.Event()


class StandbyPool:
    """Keeps boxes ready by key. `refill` and `job_ends` on the manager's loop, all else from any thread.

    most: how many containers there may be at once, those of jobs and those that wait. Where a job has no box to take,
    boxes are given up for its container, and none is made while there is no room.
    """

    def __init__(self, executor: Executor, close: Callable[[Box], None], *, most: float = math.inf) -> None:
        self._executor = executor
        self._close = close
        self._most = most
        self._jobs: set[str] = set()
        self._wanted: tuple[str, Callable[[CallOff], Box]] | None = None
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._coming: list[_Coming] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._touched: deque[str] = deque(maxlen=_MOST_TOUCHED)

    def job_begins(self, job_id: str) -> None:
        """This job is to have a container."""
        with self._lock:
            self._jobs.add(job_id)

    def job_ends(self, job_id: str) -> None:
        """And needs it no more: there may be room for a box again, unless the next job comes first."""
        with self._lock:
            self._jobs.discard(job_id)
        if self._wanted is not None:
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._refill_wanted)

    def _refill_wanted(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self.refill(*wanted)

    def take(self, key: str, stop: CallOff) -> Box | None:
        """A box under this key that still lives; one that is on its way is waited for, until `stop` is set.

        Without one there is room for a container when this returns. No box is under the key "".
        """
        while (waiting := self._next(key)) is not None:
            if waiting.alive():
                return waiting
            self._close(waiting)
        with self._lock:
            coming = next((one for one in self._unclaimed() if one.key == key), None)
            if coming is not None:
                coming.claimed = True
        while coming is not None and not coming.done.wait(_LOOK_SECONDS):
            with self._lock:
                if stop.is_set() and not coming.done.is_set():
                    coming.claimed = False
                    return None
        if coming is not None and coming.box is not None:
            return coming.box
        self.make_room(stop)
        return None

    def make_room(self, stop: CallOff) -> None:
        """Give up boxes until there is room for one more container of a job that has begun. Blocks."""
        while not stop.is_set() and self._give_one_up():
            pass

    def _unclaimed(self) -> list[_Coming]:
        return [one for one in self._coming if not one.claimed and not one.stop.is_set()]

    def _give_one_up(self) -> bool:
        """Close a box if there are too many containers; whether there may still be. Blocks."""
        with self._lock:
            coming = [one for one in self._coming if not one.claimed]
            if len(self._jobs) + len(self._waiting) + len(coming) <= self._most:
                return False
            oldest = self._waiting.pop(0) if self._waiting else None
        if oldest is not None:
            self._close(oldest.box)
            return True
        if not coming:
            return False
        coming[0].stop.set()
        coming[0].gone.wait(_LOOK_SECONDS)
        return True

    @property
    def some_wait(self) -> bool:
        """Whether there is any to take."""
        return bool(self._waiting)

    def take_now(self, key: str, fits: Callable[[Box], bool]) -> Box | None:
        """A box under this key that lives and fits; nothing is waited for."""
        with self._lock:
            for one in self._waiting:
                if one.key == key and fits(one.box) and one.box.alive():
                    self._waiting.remove(one)
                    return one.box
        return None

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
            if self._closed or mine >= _MOST_PER_KEY:
                return
            room = min(_MOST, self._most - len(self._jobs)) - sum(not one.claimed for one in self._coming) - 1
            if room < 0:
                self._wanted = key, make
                return
            surplus = [self._waiting.pop(0) for _ in range(max(0, len(self._waiting) - int(room)))]
            coming = _Coming(key)
            self._coming.append(coming)
            self._executor.submit(self._make, coming, make, surplus)
        self._watch()

    def _make(self, coming: _Coming, make: Callable[[CallOff], Box], surplus: list[_Waiting]) -> None:
        box = None
        try:
            for one in surplus:
                self._close(one.box)
            # why there is none, the next job of the kind is told when it starts without
            with suppress(WorkerNotStarted, EngineRefused, EngineUnavailable, OSError):
                box = make(coming.stop)
        finally:  # whatever went wrong, a job may wait for it
            if not self._has_place(coming, box) and box is not None:
                self._close(box)
            with self._lock:
                if coming in self._coming:
                    self._coming.remove(coming)
            coming.gone.set()

    def _has_place(self, coming: _Coming, box: Box | None) -> bool:
        """Whether a job has it now, or it waits; if not, it counts until it is closed."""
        with self._lock:
            if coming.claimed:
                coming.box = box
                self._coming.remove(coming)
            coming.done.set()
            if coming.claimed:
                return True
            if box is None or coming.stop.is_set() or box.id in self._touched or not box.alive():
                coming.stop.set()  # nobody can claim it
                return False
            self._coming.remove(coming)
            self._waiting.append(_Waiting(coming.key, box, time.monotonic()))
            return True

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

    def drop_dead(self, touched: Collection[str] = ()) -> None:
        """Give up the boxes that have ended, as all do with their engine. touched: ids, to be given up as well."""
        self._touched.extend(touched)
        self._drop(lambda one: not one.box.alive() or one.box.id in touched)

    def _drop(self, which: Callable[[_Waiting], bool]) -> None:
        with self._lock:
            if self._closed:
                return
            for one in [one for one in self._waiting if which(one)]:
                self._waiting.remove(one)
                self._executor.submit(self._close, one.box)

    def give_up(self, part: str) -> None:
        """Close every box with this in its key, and those that are being made; blocks until they are gone."""
        with self._lock:
            mine = [one for one in self._waiting if part in one.key]
            self._waiting = [one for one in self._waiting if one not in mine]
            coming = [one for one in self._coming if part in one.key and not one.claimed]
            for being_made in coming:
                being_made.stop.set()
        for one in mine:
            self._close(one.box)
        for being_made in coming:
            being_made.gone.wait(_GONE_SECONDS)

    def empty(self) -> None:
        """Close every box, those that are still being made as they come; no box is taken or made after."""
        if self._timer:
            self._timer.cancel()
        with self._lock:
            self._closed = True
            for coming in self._coming:
                coming.stop.set()
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                self._executor.submit(self._close, one.box)

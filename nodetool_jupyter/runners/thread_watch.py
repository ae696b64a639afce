"""Watches over a threaded job from the manager's loop: an event loop that is blocked, and processor time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from ..events import Notification, UsageUpdate
from ..frames import Report
from .thread_stop import whereabouts

_BEAT_SECONDS = 0.05
_BLOCKED_SECONDS = 0.1
_USAGE_SECONDS = 1.0
_OF_A_LOOP = ("/selectors.py", "/asyncio/")  # who is late there waits for something, or for a busy processor


class LoopWatch:
    """Tells once where an async cell kept its own event loop from running for over 100 ms."""

    def __init__(self, thread: threading.Thread, notify: Callable[[Notification], None]) -> None:
        self._thread = thread
        self._notify = notify
        self._manager_loop = asyncio.get_running_loop()
        self._last_beat = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; called on the job's own loop."""

        def beat() -> None:
            self._last_beat = time.monotonic()
            if not self._ended:
                loop.call_later(_BEAT_SECONDS, beat)

        beat()
        self._manager_loop.call_soon_threadsafe(self._look)

    def end(self) -> None:
        """The job's code has ended."""
        self._ended = True

    def _look(self) -> None:
        if self._ended:
            return
        late = time.monotonic() - self._last_beat - _BEAT_SECONDS
        where = whereabouts(self._thread) if late > _BLOCKED_SECONDS else ""
        innermost = where.partition(", called from")[0]
        if where and not any(own in innermost for own in _OF_A_LOOP):
            self._notify(
                Notification(
                    content=f"This async cell blocked its event loop for over {_BLOCKED_SECONDS * 1000:.0f} ms in "
                    f"{where}. Use `await asyncio.to_thread(…)` for such a call, or an async version of it.",
                    code="NT-A02",
                )
            )
            return
        self._timer = self._manager_loop.call_later(_BEAT_SECONDS, self._look)


class UsageWatch:
    """Reports the processor time of a thread once a second, where the system can tell it."""

    def __init__(self, report: Callable[[Report], None]) -> None:
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._clock: int | None = None
        self._timer = self._loop.call_later(_USAGE_SECONDS, self._look)

    def follow_this_thread(self) -> None:
        """Called on the job's own: to ask for the clock of one that has just ended can crash the process."""
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def end(self) -> None:
        """The thread is gone."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._clock is not None:
            try:
                seconds = time.clock_gettime(self._clock)
            except OSError:  # it has just ended
                return
            self._report(UsageUpdate(cpu_seconds=seconds))
        self._timer = self._loop.call_later(_USAGE_SECONDS, self._look)

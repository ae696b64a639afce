"""Stopping a thread: ask, interrupt, and be honest when Python can't."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from ..events import Notification, Signalled
from ..worker.tracebacks import is_file, place
from .thread_raise import raise_in_thread

_LOOK_AGAIN_SECONDS = 1.0
_STEPS_TO_ARRIVE = 16


class Interruptible:
    """The stretch of a thread in which an exception from outside may hit: the person's code, nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread_id: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None

    def open(self) -> None:
        """From here on `interrupt` reaches the calling thread."""
        with self._lock:
            self._thread_id = threading.get_ident()

    def close(self) -> None:
        """From here on it does not. One that is on its way arrives here: catch it, and call this again.

        It is not called back by setting none: CPython then never lowers the flag that it looks at after
        every step, and everything in the process is slower from there on.
        """
        with self._lock:
            self._thread_id = self._loop = self._task = None
        for _ in range(_STEPS_TO_ARRIVE):
            pass

    def enter_task(self) -> None:
        """The person's code runs as the current task: it is cancelled rather than interrupted, at first."""
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt(self, *, gently: bool) -> str:
        """Raise in the thread, or cancel its task; what was done, "" when there was nothing to reach."""
        with self._lock:
            if self._thread_id is None:
                return ""
            if gently and self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
                return "task cancelled"
            raise_in_thread(self._thread_id)
            return "exception"


class Stop:
    """One stop, on the manager's loop: flag and interrupt at once, again at half the grace, then reports.

    Nothing kills a thread, so after the grace it only says where the thread is, each time that changes.
    """

    def __init__(
        self,
        target: Interruptible,
        thread: threading.Thread,
        notify: Callable[[Notification], None],
        grace_seconds: float,
    ) -> None:
        self.sent: list[Signalled] = [Signalled("cancelled flag", 0.0, 1)]
        self._target = target
        self._thread = thread
        self._notify = notify
        self._begun = time.monotonic()
        self._grace_seconds = grace_seconds
        self._where = ""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._interrupt(gently=True)
        self._timer = self._loop.call_later(grace_seconds / 2, self._insist)

    def end(self) -> None:
        """The thread is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _interrupt(self, *, gently: bool) -> None:
        done = self._target.interrupt(gently=gently)
        if done:
            self.sent.append(Signalled(done, round(time.monotonic() - self._begun, 3), 1))

    def _insist(self) -> None:
        self._interrupt(gently=False)
        self._timer = self._loop.call_later(self._grace_seconds / 2, self._report)

    def _report(self) -> None:
        where = whereabouts(self._thread)
        if where and where != self._where:
            self._where = where
            waited = time.monotonic() - self._begun
            self._notify(
                Notification(
                    content=f"The stop was requested {waited:.1f} s ago; the thread is in {where} and Python cannot "
                    "stop it. The job is still running. Use --runner subprocess for work that must be stoppable.",
                    code="NT-C01",
                )
            )
        self._target.interrupt(gently=False)
        self._timer = self._loop.call_later(_LOOK_AGAIN_SECONDS, self._report)


def whereabouts(thread: threading.Thread) -> str:
    """Where a thread is: the expression, file and line, and from which line of the cell; "" when it is gone."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return ""
    innermost = frame
    caller: FrameType | None = frame
    while caller is not None and is_file(caller.f_code.co_filename):
        caller = caller.f_back
    found = _point(innermost)
    if caller is not None and caller is not innermost:
        found += f", called from {place(caller.f_code.co_filename)}, line {caller.f_lineno}"
    return found


def _point(frame: FrameType) -> str:
    import linecache

    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals)
    first, last, start, stop = list(code.co_positions())[frame.f_lasti // 2]
    text = line.strip()
    if first == last == frame.f_lineno and start is not None and stop is not None:
        text = line.encode()[start:stop].decode("utf-8", "replace")
    where = f"{place(code.co_filename)}, line {frame.f_lineno}"
    return f"`{text[:80]}` at {where}" if text else where

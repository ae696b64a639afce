"""A thread with an event loop and one task group, and the ways into it from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple

import anyio

T = TypeVar("T")
Args = TypeVarTuple("Args")


class LoopThread:
    """Runs until `finish`; tasks live in its one group."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=anyio.run, args=(self._main,), name=name, daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._tasks: asyncio.TaskGroup
        self._closing: asyncio.Event
        self._context: Context
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False
        self._waking = threading.RLock()

    def start(self) -> None:
        """Start the thread and wait until the loop runs."""
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._loop, self._context = asyncio.get_running_loop(), copy_context()
        self._closing = asyncio.Event()
        async with asyncio.TaskGroup() as self._tasks:
            self._ready.set()
            await self._closing.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    @property
    def inside(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def post(self, callback: Callable[[*Args], object], *args: *Args) -> None:
        """Call soon on the loop, from any thread; nothing happens once the loop is closed.

        What other threads post is called in order. The loop is woken once for all that waits, which costs more than a
        call. It is woken into a context of its own: what runs here belongs to no job.
        """
        if self._loop.is_closed():
            return
        if self.inside:
            self._loop.call_soon(callback, *args)
            return
        self._posted.append((callback, args))
        with self._waking:  # what is called on the loop after this comes after it there
            if not self._woken:
                self._woken = True
                self._loop.call_soon_threadsafe(self._call_posted, context=self._context)

    def _call_posted(self) -> None:
        self._woken = False  # before the look: what is posted after it wakes the loop again
        try:
            for _ in range(len(self._posted)):
                callback, args = self._posted.popleft()
                callback(*args)
        finally:  # one that raises is reported by the loop and keeps no other from being called
            if self._posted and not self._woken:
                self._woken = True
                self._loop.call_soon(self._call_posted)

    def call(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """Call on the loop and wait for the result. Not from the loop's own thread."""

        async def step() -> T:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(step(), self._loop).result()

    def start_soon(self, function: Callable[[*Args], Coroutine[Any, Any, object]], *args: *Args) -> None:
        """Start a task in the group; on the loop's thread only."""
        self._tasks.create_task(function(*args))

    def later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call on the loop after a while; returns what takes it back. From any thread."""
        handles: list[asyncio.TimerHandle] = []
        wanted = True

        def arm() -> None:
            if wanted:
                handles.append(self._loop.call_later(seconds, callback))

        def cancel() -> None:
            for handle in handles:
                handle.cancel()

        def take_back() -> None:
            nonlocal wanted
            wanted = False
            self.post(cancel)

        self.post(arm)
        return take_back

    def finish(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a last task, cancel what else still runs, and end the thread."""

        async def last() -> None:
            try:
                await function()
            finally:
                self._closing.set()

        self.post(self.start_soon, last)
        self._thread.join()

"""A thread with an event loop and one task group, and the ways into it from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

import anyio
from anyio.abc import TaskGroup

T = TypeVar("T")
Args = TypeVarTuple("Args")


class LoopThread:
    """Runs until `finish`; tasks live in its one group."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=anyio.run, args=(self._main,), name=name, daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._tasks: TaskGroup
        self._closing: anyio.Event

    def start(self) -> None:
        """Start the thread and wait until the loop runs."""
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = anyio.Event()
        async with anyio.create_task_group() as self._tasks:
            self._ready.set()
            await self._closing.wait()
            self._tasks.cancel_scope.cancel()

    @property
    def inside(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def post(self, callback: Callable[[*Args], object], *args: *Args) -> None:
        """Call soon on the loop, from any thread; nothing happens once the loop is closed."""
        if not self._loop.is_closed():
            call = self._loop.call_soon if self.inside else self._loop.call_soon_threadsafe  # which wakes it first
            call(callback, *args)

    def call(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """Call on the loop and wait for the result. Not from the loop's own thread."""

        async def step() -> T:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(step(), self._loop).result()

    def start_soon(self, function: Callable[[*Args], Coroutine[Any, Any, object]], *args: *Args) -> None:
        """Start a task in the group; on the loop's thread only."""
        self._tasks.start_soon(function, *args)

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

        self.post(self._tasks.start_soon, last)
        self._thread.join()

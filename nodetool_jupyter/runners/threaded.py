"""The threaded runner: a cell in a thread of its own, on the notebook's own namespace."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import os
import shutil
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from .. import events as ev
from ..errors import InvalidRequest, LimitNotHeld, ProfileRefused
from ..frames import Report, Returned, Value
from ..jobs import Job, JobRequest, Profile
from ..places import job_folder
from ..worker import display, pickled, progress
from ..worker.cell import run_cell
from ..worker.current import Inside, claim_context
from ..worker.execute import Cell, attempt_all, is_plain_exit
from ..worker.leaks import Snapshot
from ..worker.sources import remember
from ..worker.tracebacks import describe
from ..worker.values import type_name
from . import thread_capture
from .base import Parcel
from .thread_figures import show_open_figures
from .thread_mailbox import Mailbox
from .thread_stop import Interruptible, Stop
from .thread_watch import LoopWatch, UsageWatch

_HELD = {"wall_seconds": "the manager's timer; Python code is interrupted, C code is waited for"}
_SOURCES_KEPT = 256


class ThreadedRunner:
    """Runs cells in threads of this process. It isolates nothing; it costs next to nothing."""

    name = "threaded"
    shares_namespace = True

    def __init__(self) -> None:
        self._sources: deque[str] = deque()

    def check(self, request: JobRequest) -> None:
        """Refuse untrusted code, limits but wall time, and what only a process of its own can have."""
        if request.profile is Profile.UNTRUSTED:
            raise ProfileRefused(
                "NT-S01",
                "Untrusted jobs cannot run in the kernel's own process. "
                "Use --runner docker, or subprocess with bubblewrap installed. Nothing was started.",
            )
        missing = request.limits.asked().keys() - _HELD.keys()
        if missing and not request.limits.best_effort:
            raise LimitNotHeld(missing, self.name, "Use --runner subprocess")
        if not (request.env or request.secrets or request.python or request.fresh or request.cwd):
            return
        asked = {
            "-e": sorted(request.env),
            "--secret": list(request.secrets),
            "--python": [request.python] if request.python else [],
            "--fresh": ["(a new interpreter)"] if request.fresh else [],
            "--workdir": [request.cwd] if request.cwd and os.path.realpath(request.cwd) != _folder() else [],
        }
        for option, values in asked.items():
            if values:
                raise InvalidRequest(
                    f"{option} {values[0]} can't be had in a thread: it shares the kernel's process. "
                    "Use --runner subprocess. Nothing was started."
                )

    def holds(self) -> Mapping[str, str]:
        """Wall time alone."""
        return _HELD

    def foresee(self, request: JobRequest) -> ev.Isolation:
        """See `Runner.foresee`."""
        return _isolation(request)

    def speaks_other(self, request: JobRequest) -> str:
        """See `Runner.speaks_other`."""
        return ""

    def launch(self, job: Job, parcel: Parcel) -> AbstractAsyncContextManager[ThreadedWorker]:
        """Start the thread."""
        return self._launch(job, parcel)

    @asynccontextmanager
    async def _launch(self, job: Job, parcel: Parcel) -> AsyncIterator[ThreadedWorker]:
        thread_capture.acquire()
        worker = ThreadedWorker(job, parcel)
        self._forget_old_sources(worker.filename)
        try:
            worker.start()
            yield worker
        finally:
            worker.leave()

    def _forget_old_sources(self, filename: str) -> None:
        self._sources.append(filename)
        self._keep_sources(_SOURCES_KEPT)

    def _keep_sources(self, count: int) -> None:
        linecache = sys.modules.get("linecache")
        while len(self._sources) > count:
            old = self._sources.popleft()
            if linecache is not None and old not in self._sources:
                linecache.cache.pop(old, None)

    async def close(self) -> None:
        """Forget the sources of cells that tracebacks showed."""
        self._keep_sources(0)


class ThreadedWorker:
    """One job in its thread. Made and used on the manager's loop; methods with `_in_thread` run in the thread."""

    def __init__(self, job: Job, parcel: Parcel) -> None:
        self._job = job
        self._parcel = parcel
        work = job.request.work
        self.filename = work.filename if work.filename != "<cell>" else f"<cell {job.id[:8]}>"
        self._ended = asyncio.Event()
        self._mailbox = Mailbox(asyncio.get_running_loop(), self._ended.set)
        self._inside = Inside(self._mailbox, _pack, max_bytes=job.request.most_bytes_back)
        self._inside.folder = self._temporary_folder
        self._folder = ""
        self._interruptible = Interruptible()
        context = parcel.context.copy() if parcel.context is not None else contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run_in_thread,), name=f"nodetool-{job.id[:8]}", daemon=True
        )
        self._stop: Stop | None = None
        self._usage = UsageWatch(self._mailbox.post)
        self._loop_watch = LoopWatch(self._thread, self._mailbox.post)
        self._returned = False
        self._is_async = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def isolation(self) -> ev.Isolation:
        """None but the time limit."""
        return _isolation(self._job.request, thread=self._thread.name)

    def reports(self) -> AsyncIterator[Sequence[Report]]:
        """What the job's threads report, until its code has ended."""
        return self._mailbox.batches()

    def feed(self, value: Value) -> None:
        """Hand a value over; it is decoded by the job's thread."""
        self._inside.fed[value.name] = partial(_found, value)

    def stop(self, grace_seconds: float) -> None:
        """Set the flag that `cancelled()` tells, interrupt, and go on as `Stop` does."""
        if self._stop is None and not self._ended.is_set():
            self._inside.cancelled = True
            self._stop = Stop(self._interruptible, self._thread, self._mailbox.post, grace_seconds)

    async def wait(self) -> ev.Exit:
        """Wait until the thread is really gone; there is no way to make it."""
        await self._ended.wait()
        return ev.Exit(code=0 if self._returned else 1, sent=tuple(self._stop.sent) if self._stop else ())

    def leave(self) -> None:
        """Let go of the job, whether its thread is gone or not."""
        self._inside.open = False
        self._mailbox.abandon()
        if self._stop is not None:
            self._stop.end()
        self._usage.end()
        thread_capture.release()

    def _run_in_thread(self) -> None:
        claim_context(self._inside)
        self._usage.follow_this_thread()
        before = Snapshot()
        error = self._run_interruptibly()
        self._loop_watch.end()
        progress.finish(self._inside)
        leaks = [
            ev.Notification(content=f"{change} The kernel keeps it: a threaded job shares its process.", code="NT-L01")
            for change in (*before.changes_since(), *self._changed_mask())
        ]
        self._inside.open = False
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._returned = error is None or is_plain_exit(error)
        if self._returned:
            self._mailbox.post(*leaks, Returned(), last=True)
        else:
            assert error is not None
            self._mailbox.emit_last(describe(error, cancelled=self._inside.cancelled), leaks)

    def _changed_mask(self) -> Iterator[str]:
        before, now = self._inside.masks or (0, 0)
        if before != now:
            yield f"The file mask is now {now:04o} (it was {before:04o})."

    def _run_interruptibly(self) -> BaseException | None:
        """Run the cell so that an interrupt may hit it, and nothing of ours after it."""
        error: BaseException | None = None
        finished = False
        try:
            self._interruptible.open()
            _, error = attempt_all(self._run_cell)
            finished = True
        except KeyboardInterrupt as late:
            error = error if finished else late
        while True:
            try:
                self._interruptible.close()
            except KeyboardInterrupt:  # it came while the door was closing
                continue
            return error

    def _run_cell(self) -> None:
        work = self._job.request.work
        namespace = self._parcel.namespace
        if namespace is None:
            namespace = {"__name__": "__main__", "__builtins__": builtins}
        namespace.update({value.name: pickled.decode(value) for value in self._parcel.inputs})
        remember(self.filename, work.runnable)
        cell = Cell(work.runnable, self.filename)
        self._is_async = cell.is_async
        run_cell(cell, namespace, outputs=self._job.request.outputs, inside=self._inside, place=self)

    def bundle(self, value: object) -> display.Bundle:
        """How a value is shown: by the kernel's own formatter, where there is one.

        Nothing but the end follows, unless there are figures or the cell is async and may leave tasks.
        """
        if not (self._inside.figures or self._is_async):
            self._mailbox.hold()
        shell = thread_capture.running_shell()
        if shell is None:
            return display.by_methods(value)
        data, metadata = shell.display_formatter.format(value)
        return data, metadata

    def flush_figures(self) -> None:
        """Show the figures that the job left open."""
        show_open_figures(self._inside)

    def run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on an event loop of the job's own."""

        async def run() -> Any:
            self._interruptible.enter_task()
            self._loop_watch.follow(asyncio.get_running_loop())
            return await coroutine

        with asyncio.Runner() as runner:
            return runner.run(run())

    def _temporary_folder(self) -> str:
        if not self._folder:
            finder, self._inside.folder = self._inside.folder, None
            try:
                self._folder = str(job_folder(self._job.owner, self._job.id))
            finally:
                self._inside.folder = finder
        return self._folder


def _pack(name: str, value: object) -> tuple[dict[str, Any], Any]:
    """A value travels as itself: the thread shares the kernel's memory."""
    return {"type": "value", "name": name, "format": "object", "type_name": type_name(value)}, value


def _found(value: Value) -> Any:
    return value.body if value.format == "object" else pickled.decode(value)


def _folder() -> str:
    try:
        return os.path.realpath(os.getcwd())
    except OSError:
        return ""


def _isolation(request: JobRequest, **details: str) -> ev.Isolation:
    asked = request.limits.asked()
    return ev.Isolation(
        runner=ThreadedRunner.name,
        profile=request.profile.value,
        held={name: how for name, how in _HELD.items() if name in asked},
        not_held=tuple(sorted(asked.keys() - _HELD.keys())),
        details={"namespace": "shared", **details},
    )

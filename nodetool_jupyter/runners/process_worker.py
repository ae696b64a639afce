"""One job in a process of its own, seen from the manager."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from ..events import Exit, Isolation, UsageUpdate
from ..frames import Report, Value
from ..jobs import Job, JobRequest
from ..sandbox import SHM_BYTES, Sandbox
from ..worker import cgroups, folders, tree, wire
from ..worker.supervised import STRAYS_SECONDS
from .base import WorkerNotStarted
from .process_exit import describe, why_not_started
from .process_limits import Plan
from .process_streams import Inflow, Outflow, Streams
from .process_supervisor import SupervisorLink

_SWEEPS = 100
_SWEEP_SECONDS = 0.1
_LAST_WORD_SECONDS = 2 * STRAYS_SECONDS  # what the job leaves running is killed before it is known what all used


class ProcessWorker:
    """The worker of the `subprocess` runner.

    order: what the supervisor is told. streams: our ends of them are closed by `end`.
    """

    def __init__(
        self,
        job: Job,
        link: SupervisorLink,
        *,
        plan: Plan,
        order: Mapping[str, Any],
        streams: Streams,
        box: Sandbox | None = None,
    ) -> None:
        self._job = job
        self._box = box
        self._link = link
        self._plan = plan
        self._order = order
        self._folder = order["folder"]
        self._channel = streams.channel
        grace = job.request.grace_seconds
        self._inflow = Inflow(streams, max_body_bytes=job.request.most_bytes_back, grace_seconds=grace)
        self._outflow = Outflow(self._channel)
        self._started: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._sweeping = asyncio.Lock()
        self._lost = self._swept = False
        self._receipt: Mapping[str, Any] | None = None
        self._isolation = Isolation(runner="subprocess", profile=job.request.profile.value)

    def isolation(self) -> Isolation:
        """Crash isolation only, unless it is in a sandbox: the process has its user's rights."""
        return self._isolation

    def send(self, buffers: Sequence[wire.Buffer]) -> None:
        """Send a frame once the earlier ones are through."""
        self._outflow.send(buffers)

    async def started(self) -> None:
        """Wait for the exec. Raises `WorkerNotStarted`."""
        message = await self._started
        if message["op"] == "not_started":
            self._ended.set()
            raise WorkerNotStarted(why_not_started(message["step"], message["errno"], self._order))
        grouped = {name for name, how in self._plan.held.items() if how.startswith("cgroup")}
        lacking = grouped & self._plan.defaults.keys() - message["held"].keys()
        held = {name: how for name, how in self._plan.held.items() if name not in lacking}
        self._isolation = isolation(
            self._job.request,
            self._plan,
            self._box,
            held={**held, **message["held"]},
            lacking=lacking,
            pid=message["pid"],
            start="forked from a warm parent" if message["warm"] else "new interpreter",
        )

    async def reports(self) -> AsyncIterator[Sequence[Report]]:
        """What comes on the channel and the pipes, and what the supervisor measures."""
        self._drained.clear()
        self._link.want_usage(self._job.id)
        try:
            async for batch in self._inflow.batches():
                yield batch
            with anyio.move_on_after(_LAST_WORD_SECONDS):
                await self._ended.wait()
            if usage := self._inflow.take_usage():
                yield [usage]
        finally:
            self._drained.set()

    def feed(self, value: Value) -> None:
        """Send a value on the channel, after what is on its way."""
        self.send(value_frame(value, kind="feed"))

    def stop(self, grace_seconds: float) -> None:
        """Let the supervisor stop it; the first call counts."""
        self._link.stop(self._job.id, grace_seconds)

    async def wait(self) -> Exit:
        """How it ended, once nobody of its tree is left and what they wrote was read."""
        await self._ended.wait()
        async with self._sweeping:
            if self._lost and not self._swept:
                await anyio.to_thread.run_sync(_sweep, self._job.id)
                self._swept = True
        await self._drained.wait()
        if self._receipt is None:
            return Exit(cause="supervisor_lost" if self._lost else "")
        return describe(
            self._receipt,
            limits=self._job.request.limits,
            defaults=self._plan.defaults,
            stderr_tail=self._inflow.stderr.tail,
            sandbox_shm_bytes=SHM_BYTES if self._box is not None else 0,
        )

    async def end(self) -> None:
        """Stop it if it still runs, wait for its end and remove its folder."""
        if not self._ended.is_set():
            self.stop(0.0)
        self._drained.set()
        await self.wait()
        self._inflow.close()
        self._outflow.close()
        self._channel.close()
        if _is_empty(self._folder):  # nobody is left who could change that, and nobody waits for a file system
            asyncio.get_running_loop().call_soon(self._remove_folder)
        else:
            await anyio.to_thread.run_sync(folders.remove, self._folder)
            self._link.forget(self._job.id, self._folder)

    def _remove_folder(self) -> None:
        try:
            os.rmdir(self._folder)
        except OSError:
            folders.remove(self._folder)
        self._link.forget(self._job.id, self._folder)

    def heard(self, message: Mapping[str, Any]) -> None:
        """Take what the supervisor says about this job."""
        if message["op"] == "usage":
            self._report_usage(message)
            return
        if not self._started.done():
            self._started.set_result(message)
        if message["op"] == "ended":
            self._receipt = message
            self._report_usage({"memory_bytes": 0, "processes": 0, **message})
        if message["op"] in ("ended", "not_started"):
            self._settle()

    def supervisor_lost(self) -> None:
        """Nobody watches over the processes any more; they were killed with the supervisor."""
        if self._ended.is_set():
            return
        if not self._started.done():
            self._started.set_result({"op": "not_started", "step": "supervisor", "errno": 0})
        self._lost = True
        self._settle()

    def _settle(self) -> None:
        self._inflow.no_writer_is_left()
        self._ended.set()

    def _report_usage(self, message: Mapping[str, Any]) -> None:
        self._inflow.report_usage(
            UsageUpdate(
                memory_bytes=message["memory_bytes"],
                peak_memory_bytes=message["peak_memory_bytes"],
                cpu_seconds=round(message["cpu_seconds"], 3),
                processes=message["processes"],
            )
        )


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _sweep(job: str) -> None:
    """Kill what is left of a job whose supervisor is gone, until there is nothing."""
    for _ in range(_SWEEPS):
        left = [pid for pid in tree.of_job(job) if pid != os.getpid()]
        if not left:
            break
        tree.send(left, signal.SIGKILL)
        _wait_for_death(left[0])
    cgroups.remove_stale(cgroups.find())


def _wait_for_death(pid: int) -> None:
    try:
        life = os.pidfd_open(pid)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(life, select.POLLIN)
        poll.poll(_SWEEP_SECONDS * 1000)
    finally:
        os.close(life)


def value_frame(value: Value, *, kind: str = "value") -> list[wire.Buffer]:
    """The frame of an input, or of a value that is fed."""
    header = msgspec.to_builtins(msgspec.structs.replace(value, body=None))
    del header["body"]
    body = value.body if isinstance(value.body, list | tuple) else [value.body] if value.body is not None else []
    return wire.encode({**header, "type": kind}, body)


def isolation(
    request: JobRequest,
    arranged: Plan,
    box: Sandbox | None,
    *,
    held: Mapping[str, str],
    lacking: Iterable[str] = (),
    **details: object,
) -> Isolation:
    """What is in force, or would be. lacking: limits of the profile that turned out not to be held."""
    return Isolation(
        runner="subprocess",
        profile=request.profile.value,
        boundary="bubblewrap" if box else "none",
        held=dict(held),
        not_held=tuple(sorted({*arranged.not_held, *lacking})),
        details={
            **details,
            "profile_limits": arranged.defaults,
            **(box.details(counted=arranged.memory_is_counted) if box else {}),
        },
    )

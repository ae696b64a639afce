"""One task per job, and the only writer of its status: reports, stop, timeout and exit all meet here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import Any, Protocol, cast, get_args

import anyio
import msgspec

from . import events as ev
from .assets import AssetFolder
from .errors import InvalidRequest, ProtocolError
from .frames import FilePart, Raised, Ready, Report, Returned, Shown, Value
from .jobs import Job, JobStatus, Profile, Reason, Usage, advance
from .kept import KeptLog
from .redaction import redaction
from .runners.base import Parcel, Runner, Worker, WorkerNotGone, WorkerNotStarted
from .screening import Screen, still
from .stores.base import Change
from .verdict import StopCause, Verdict, verdict

_log = logging.getLogger(__name__)
_MOST_HELD = 4
_STATUS_SECONDS = 0.002
_UNTRUSTED_EVENTS = 10_000
_SMALL_VALUE_BYTES = 64 << 10
_PLAIN_CHARACTERS = 1_000
_PLAIN_BITS = 64
_SHOWN = frozenset[type](get_args(Shown))
_STARTS = (JobStatus.STARTING, JobStatus.RUNNING)
_AFTER_THE_END = (ev.Stream, ev.LogUpdate, ev.UsageUpdate)


class Record(Protocol):
    """Where a job's changes go."""

    def put(self, change: Change, settled: Callable[[Exception | None], None]) -> None:
        """Queue one change, in order; `settled` is called on the manager's loop, with the error if any."""
        ...


class Outcome(dict[str, Value]):
    """The values that a job sent back, by name; "" is its last expression."""


class Supervision:
    """Runs one job from its start to its last event.

    `job` is the newest state, `outcome` what came back. All methods are called on the manager's loop.
    """

    def __init__(self, job: Job, parcel: Parcel, runner: Runner, record: Record, assets: AssetFolder) -> None:
        self.job = job
        self.runner = runner
        self.outcome = Outcome()
        self._parcel = replace(parcel, report=self._said_at_start)
        self._launching: anyio.CancelScope | None = None
        self._record = record
        self._assets = assets
        self._worker: Worker | None = None
        self._limits_held: Mapping[str, str] = {}
        self._terminal: Returned | Raised | None = None
        self._early: list[Value] = []
        self._stopped: StopCause | None = None
        self._too_late = False
        self._complaint = ""
        self._grace_seconds = job.request.grace_seconds
        self._started: float | None = None
        untrusted = job.request.profile is Profile.UNTRUSTED
        self._screen = Screen(job.id, max_bytes=job.request.most_bytes_back) if untrusted else list
        self._redaction = redaction(parcel.secrets.values())
        self._log = KeptLog(job.request.max_log_bytes, max_events=_UNTRUSTED_EVENTS if untrusted else None)
        self._unwritten: list[ev.AnyEvent] = []
        self._written_version = job.version
        self._flushing: asyncio.Handle | None = None
        self._unsettled = 0
        self._held = 0
        self._settled = asyncio.Event()

    def first_change(self) -> Change:
        """The change that makes the job known, with its first event; before anything else."""
        stamped = ev.stamp(ev.JobUpdate(status=self.job.status.value), self.job.id, 1, self.job.created_at)
        self.job = msgspec.structs.replace(self.job, last_seq=1)
        return Change(self.job, 0, (stamped,))

    def stop(self, cause: StopCause, complaint: str = "", grace_seconds: float | None = None) -> bool:
        """Ask for the end of the job; the first cause counts. Whether there was still something to stop."""
        if self.job.status.final:
            return False
        if self._stopped is None:
            self._stopped, self._complaint = cause, complaint
            self._too_late = self._terminal is not None
        if grace_seconds is not None:
            self._grace_seconds = grace_seconds
        if self.job.status is JobStatus.QUEUED:
            self._finish(Verdict(JobStatus.CANCELLED, None, complaint or "Cancelled before it started."))
        elif self._worker is not None:
            self._begin_stop(self._worker)
        elif self._launching is not None and self.job.status is JobStatus.STARTING:
            self._change(JobStatus.CANCELLING)
            self._launching.cancel()
        return True

    def feed(self, value: Value) -> bool:
        """Send a value to the job, or keep it until there is a worker; whether somebody can take it."""
        if self._terminal is not None or self.job.status.final:
            return False
        if self._worker is None:
            self._early.append(value)
        else:
            self._worker.feed(value)
        return True

    async def run(self) -> None:
        """Start the worker, follow it to its end and record how it ended. Raises nothing."""
        try:
            if not self.job.status.final:
                await self._run()
        except Exception as error:
            # whatever a runner does wrong ends its job, never the manager
            _log.exception("job %s: runner %r failed", self.job.id, self.runner.name)
            self.outcome = Outcome()  # it may be this that can't be told
            if not self.job.status.final:
                complaint = f"Runner {self.runner.name!r} failed: {type(error).__name__}: {error}"
                self._finish(Verdict(JobStatus.FAILED, Reason.CRASHED, complaint))

    async def _run(self) -> None:
        self._started = time.monotonic()
        self._change(JobStatus.STARTING, started_at=time.time())
        exit_event = ev.Exit()
        try:
            async with AsyncExitStack() as stack:
                with anyio.CancelScope() as self._launching:
                    self._worker = await stack.enter_async_context(self.runner.launch(self.job, self._parcel))
                self._parcel = Parcel()
                if self._worker is not None:
                    exit_event = await self._follow(self._worker)
        except WorkerNotStarted as error:
            self._not_started(str(error), error.options, gone=not isinstance(error, WorkerNotGone))
            return
        finally:
            self._assets.close()
        if self._worker is None:
            self._not_started("")
            return
        exit_event = msgspec.structs.replace(exit_event, detail=still(exit_event.detail))
        self._append([exit_event])
        self._finish(
            verdict(
                self._terminal,
                exit_event,
                limits=self.job.request.limits,
                held=self._limits_held,
                stopped=None if self._too_late and self._proven(exit_event) else self._stopped,
                complaint=self._complaint,
            )
        )

    def _not_started(self, why: str, options: tuple[str, ...] = (), *, gone: bool = True) -> None:
        """There never was a worker: it could not be started, or the start was called off."""
        if self._stopped is not None:
            nobody = ev.Exit() if gone else ev.Exit(cause="unkillable", detail=why)
            self._finish(
                verdict(None, nobody, limits=self.job.request.limits, stopped=self._stopped, complaint=self._complaint)
            )
        else:
            self._finish(Verdict(JobStatus.FAILED, Reason.START_FAILED, why, options))

    def _proven(self, exit_event: ev.Exit) -> bool:
        return isinstance(self._terminal, Raised) or exit_event.code == 0

    async def _follow(self, worker: Worker) -> ev.Exit:
        for value in self._early:
            worker.feed(value)
        isolation = worker.isolation()
        self._limits_held = isolation.held
        if self.job.status is JobStatus.STARTING:
            self._change(JobStatus.RUNNING, before=[isolation])
        else:  # the stop came too late to keep it from starting
            self._append([isolation])
        if self._stopped is not None:
            self._begin_stop(worker)
        loop, wall_seconds = asyncio.get_running_loop(), self.job.request.limits.wall_seconds
        with ExitStack() as timers:
            if wall_seconds is not None:
                timers.callback(loop.call_later(wall_seconds, self.stop, StopCause.TIMEOUT).cancel)
            await self._read(worker)
            # nothing more can come from the worker, so it must end on its own within the grace
            timers.callback(loop.call_later(self._grace_seconds, self.stop, StopCause.OVERDUE).cancel)
            return await worker.wait()

    async def _read(self, worker: Worker) -> None:
        try:
            async for reports in worker.reports():
                self._take(self._screen(reports))
                self._held += 1
                while self._unsettled and self._held >= _MOST_HELD:
                    self._settled.clear()
                    await self._settled.wait()
        except ProtocolError as error:
            self.stop(StopCause.PROTOCOL, f"{error} [NT-R02]", 0.1)

    def _begin_stop(self, worker: Worker) -> None:
        if self.job.status is JobStatus.RUNNING:
            message = {StopCause.TIMEOUT: "Time limit reached; stopping."}.get(self._stopped or StopCause.CANCEL, "")
            self._change(JobStatus.CANCELLING, message=message)
        worker.stop(self._grace_seconds)

    def _said_at_start(self, report: Report) -> None:
        if self._worker is None and not self.job.status.final:
            self._take([report])

    def _take(self, reports: Sequence[Report]) -> None:
        if self._terminal is None and _SHOWN.issuperset(map(type, reports)):
            self._log.extend(cast(Sequence[Shown], reports))
        else:
            for report in reports:
                self._take_one(report)
        if recorded := self._log.take():
            self._append(recorded)

    def _take_one(self, report: Report) -> None:
        if self._terminal is not None and not isinstance(report, _AFTER_THE_END):
            return
        if isinstance(report, Returned | Raised):
            self._terminal = report
        elif isinstance(report, Value):
            self.outcome[report.name] = report
            if report.name:
                self._log.put(_output(report))
        elif isinstance(report, FilePart):
            self._save(report)
        elif isinstance(report, ev.UsageUpdate):
            self._measure(report)
        elif not isinstance(report, Ready):
            self._log.add(report)

    def _measure(self, event: ev.UsageUpdate) -> None:
        peak = max(event.peak_memory_bytes, event.memory_bytes, self.job.usage.peak_memory_bytes)
        usage = Usage(event.memory_bytes, peak, event.cpu_seconds, event.processes)
        self.job = msgspec.structs.replace(self.job, usage=usage)
        self._log.add(event)

    def _save(self, part: FilePart) -> None:
        if self._redaction is not None:
            part = msgspec.structs.replace(part, name=self._redaction.text(part.name))
        if part.given_up:
            self._assets.give_up(part.name)
            return
        try:
            path = self._assets.write(part.name, part.body or b"", last=part.last)
        except (InvalidRequest, OSError) as error:
            said = f"File {part.name!r} was not brought back: {error}"
            self._log.put(ev.Notification(content=said, severity="error"))
        else:
            if path is not None:
                file = ev.OutputUpdate(output_name=path.name, output_type="file", metadata={"path": str(path)})
                self._log.put(file)

    def _change(self, status: JobStatus, *, before: Sequence[ev.AnyEvent] = (), **changes: Any) -> None:
        job = advance(self.job, status, **changes)
        duration = job.duration_seconds
        update = ev.JobUpdate(status=status.value, message=job.message, duration=duration)
        self._commit(job, [*before, update])

    def _append(self, events: Sequence[ev.AnyEvent]) -> None:
        self._commit(msgspec.structs.replace(self.job, version=self.job.version + 1), events)

    def _finish(self, found: Verdict) -> None:
        duration = time.monotonic() - self._started if self._started is not None else None
        message = still(found.message)  # it may quote what a job wrote last, or an image that could not start
        if self._redaction is not None:
            message = self._redaction.text(message)
        job = advance(
            self.job,
            found.status,
            ended_at=time.time(),
            duration_seconds=duration,
            reason=found.reason,
            message=message,
        )
        failed = found.status is not JobStatus.COMPLETED
        raised = self._terminal if isinstance(self._terminal, Raised) and failed else None
        update = ev.JobUpdate(
            status=found.status.value,
            message=message,
            result=_plain(self.outcome.get("")),
            error=message if found.status is JobStatus.FAILED else None,
            traceback="\n".join(raised.traceback) if raised else None,
            reason=found.reason.value if found.reason else None,
            duration=duration,
            options=found.options,
        )
        self._commit(job, [update])

    def _commit(self, job: Job, events: Sequence[ev.AnyEvent]) -> None:
        """Number the events and put them on record with the next flush: what happens at once is stored at once.

        A start that nothing was heard of yet waits a moment for it, so that a short job is stored in two steps.
        """
        now = time.time()
        if self._redaction is not None:
            events = self._redaction(events)
        self._unwritten += ev.stamped(events, job.id, job.last_seq + 1, now)
        starts = job.status is not self.job.status and job.status in _STARTS
        self.job = msgspec.structs.replace(job, last_seq=job.last_seq + len(events))
        if job.status.final:
            self._flush()
        elif not starts:
            self._flush_within(0.0)
        elif self._flushing is None:
            self._flush_within(_STATUS_SECONDS)

    def _flush_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(self._flushing, asyncio.TimerHandle) and not seconds:
            self._flushing.cancel()
            self._flushing = None
        if self._flushing is None:
            self._flushing = loop.call_later(seconds, self._flush_soon) if seconds else loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        """Write what is there, or leave it to the end of the write that is under way."""
        self._flushing = None
        if not self._unsettled:
            self._flush()

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._unwritten:
            return
        change = Change(self.job, self._written_version, tuple(self._unwritten))
        self._unwritten, self._written_version, self._held = [], self.job.version, 0
        self._unsettled += 1
        self._record.put(change, self._one_settled)

    def _one_settled(self, error: Exception | None) -> None:
        if error is not None:
            self.stop(StopCause.STORAGE, str(error))
        self._unsettled -= 1
        if not self._unsettled and self._flushing is None:
            self._flush()
        self._settled.set()


def _output(value: Value) -> ev.OutputUpdate:
    size = sum(value.sizes)
    return ev.OutputUpdate(
        output_name=value.name,
        value=_plain(value),
        output_type=value.type_name,
        metadata={"format": value.format, "bytes": size},
    )


def _plain(value: Value | None) -> Any:
    """The value where it is small and plain, so that it can stand in an event."""
    if value is None:
        return None
    if value.format == "object":
        return value.body if _is_small(value.body) else None
    if value.format != "json" or sum(value.sizes) > _SMALL_VALUE_BYTES:
        return None
    try:
        return msgspec.json.decode(value.body)
    except (msgspec.DecodeError, RecursionError):
        return None


def _is_small(value: object) -> bool:
    """No subclass: what numpy and people make of these can't be encoded."""
    if type(value) is str:
        return len(value) < _PLAIN_CHARACTERS
    if type(value) is int:  # of a very long one Python makes no text, which is what an event is stored as
        return value.bit_length() < _PLAIN_BITS
    return type(value) in (float, bool)

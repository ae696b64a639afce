"""`run` and the handle of a job: its state, its result, its output, and what can be done with it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import InvalidRequest, JobCancelled, JobFailed, JobNotFinished, NodetoolError, OutputMissing
from ..events import AnyEvent, Display, JobUpdate, Notification, OutputUpdate, Stream
from ..frames import Value
from ..jobs import Job, JobStatus, ResourceLimits
from ..quantities import parse_count, parse_duration, parse_memory, parse_number, parse_size
from ..view import View, begin, final_line, fold_all, settled, view_html
from ..view.text import first_line
from .container_options import KEYWORDS, from_python
from .hints import with_hint
from .launch import launch_work, limits_in, relaunch
from .origins import with_origin
from .session import Session, current

if TYPE_CHECKING:
    from ..manager import JobExecutionManager

_NOT_BACK = "NT-O03"


def Limits(  # noqa: N802 - reads as the value it makes: limits=nt.Limits(memory="2g")
    *,
    memory: str | int | None = None,
    timeout: str | float | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    shm_size: str | int | None = None,
    best_effort: bool = False,
    **others: int | None,
) -> ResourceLimits:
    """Limits as on the line: `Limits(memory="2g", timeout="5m", cpus=1.5, pids=64)`.

    others: `cpu_seconds`, `open_files`, `file_size_bytes`. Raises `InvalidRequest` for what can't be read.
    """
    unknown = set(others) - {"cpu_seconds", "open_files", "file_size_bytes"}
    if unknown:
        raise InvalidRequest(
            f"There is no limit {sorted(unknown)[0]!r}. Take memory, timeout, cpus, pids or cpu_seconds."
        )
    return ResourceLimits(
        memory_bytes=None if memory is None else parse_memory(str(memory), "memory"),
        wall_seconds=None if timeout is None else parse_duration(str(timeout), "timeout"),
        cpus=None if cpus is None else parse_number(str(cpus), "cpus"),
        pids=None if pids is None else parse_count(str(pids), "pids"),
        shm_bytes=None if shm_size is None else parse_size(str(shm_size), "shm_size"),
        best_effort=best_effort,
        **{name: None if value is None else parse_count(str(value), name) for name, value in others.items()},
    )


def run(
    work: str | Callable[..., Any],
    /,
    *,
    runner: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = (),
    limits: ResourceLimits | None = None,
    **options: Any,
) -> JobHandle:
    """Start a piece of code, or a function, as a job; returns at once.

    Code finds `inputs` as its variables and brings `outputs` back; a function is called with `inputs`
    as keyword arguments, and what it returns is the result. Neither sees the notebook's variables.
    options: `profile`, `python`, `fresh`, `env`, `secrets`, `name`, `labels`, `grace_seconds`, `cwd`,
    `max_transfer_bytes`. With `runner="docker"` also those of a container, as on the line of a cell: `image`,
    `pull`, `network`, `user`, `gpus`, `gpus_shared`, `read_only`, `workdir`, and, each one or a list, `volumes`
    ("SRC:DST:ro"), `tmpfs` ("DST:size=64m"), `collect`, `requirements` (a file's name, or names of packages);
    what isn't given is as the `DOCKER_*` settings say. Raises a `Refused` when nothing was started.
    """
    session = current()
    given = dict(inputs or {})
    job, values = launch_work(
        session, work, runner=runner, inputs=given, outputs=outputs, limits=limits, options=options
    )
    return JobHandle(session, job, inputs=values)


class JobHandle:
    """The notebook's reference to a job.

    Answers to the names of `concurrent.futures` and can be awaited. Values are decoded in the thread
    that asks for them. It may be used from any thread but the manager's.
    """

    def __init__(self, session: Session, job: Job, *, inputs: Mapping[str, Any] | None = None) -> None:
        self._session = session
        self._manager: JobExecutionManager = session.manager
        self._job = job
        self._inputs = inputs
        self._values: Mapping[str, Value] = self._manager.values(job.id)
        self._decoded: dict[str, Any] = {}
        self._lock = threading.RLock()
        self.outputs = Outputs(self)

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def job(self) -> Job:
        """The job as it is stored now."""
        if not self._job.status.final:
            self._job = self._manager.get(self._job.id)
        return self._job

    @property
    def status(self) -> JobStatus:
        """Where it stands."""
        return self.job.status

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status.final

    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self.status not in (JobStatus.QUEUED,) and not self.done()

    def cancelled(self) -> bool:
        """Whether it ended because somebody asked for it."""
        return self.status is JobStatus.CANCELLED

    def send(self, name: str, value: object) -> bool:
        """Send a value to the job while it runs; its code gets it with `fed(name)`. `False`: it has ended."""
        return self._manager.feed(self.id, name, value)

    def cancel(self) -> bool:
        """Ask for its end; `False` when it had ended already."""
        return self._manager.cancel(self.id)

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait for its end; raises `JobNotFinished` after `timeout` seconds."""
        self._job = self._manager.wait(self.id, timeout)
        self._session.told(self.id)
        return self._job.status

    def exception(self, timeout: float | None = None) -> NodetoolError | None:
        """What `result` would raise; `None` for a job that completed. Raises `JobNotFinished`."""
        self.wait(timeout)
        if self.status is JobStatus.COMPLETED:
            return None
        last = self._last()
        traceback = last.traceback.split("\n") if last.traceback else []
        if self.status is JobStatus.CANCELLED:
            return JobCancelled(self.id, last.message or "Cancelled.", traceback=traceback)
        message = with_hint(last.message or "The job failed.", self.job.request, last.traceback or "")
        if last.options:
            message = with_origin(message, last.options, self.job.request, self._session.settings())
        return JobFailed(self.id, message, traceback=traceback, reason=last.reason or "")

    def result(self, timeout: float | None = None) -> Any:
        """The value of the last expression, or what the function returned.

        Raises `JobNotFinished` after `timeout` seconds, `JobFailed`, `JobCancelled`, or `OutputMissing`
        when there is a value and it can't be had.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        if "" in self._values:
            return self._decode("")
        stored = self._last().result
        shown, said = False, ""
        for event in self._manager.stored_events(self.id):
            shown |= isinstance(event, Display) and event.result
            if isinstance(event, Notification) and event.code == _NOT_BACK:
                said = event.content
        if said:
            raise OutputMissing(said)
        if stored is None and shown:
            raise OutputMissing(
                f"The value of the last expression of job {self.id} is not here any more: it was in the kernel that "
                "the job ran for. Run it again, or look at what it showed."
            )
        return stored

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self._ended().__await__()
        return self.result(0)

    async def _ended(self) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        stop = self._on_end(lambda: loop.call_soon_threadsafe(ended.set))
        try:
            await ended.wait()
        finally:
            stop()

    def _on_end(self, tell: Callable[[], object]) -> Callable[[], None]:
        """Call once it has ended, on the manager's thread."""

        def hear(events: Sequence[AnyEvent]) -> None:
            if any(isinstance(event, JobUpdate) and JobStatus(event.status).final for event in events):
                tell()

        job = self.job
        if job.status.final:
            tell()
            return lambda: None
        return self._manager.subscribe(self.id, hear, after=job.last_seq)

    def add_done_callback(self, function: Callable[[JobHandle], object]) -> None:
        """Call with this handle once it has ended, in a thread of its own; what it prints goes to this cell."""
        context = contextvars.copy_context()
        self._on_end(lambda: threading.Thread(target=context.run, args=(function, self), daemon=True).start())

    def events(self, after: int = 0) -> AsyncIterator[AnyEvent]:
        """Every event with a `seq` above `after`, to the last: `async for event in job.events()`."""
        return self._manager.follow(self.id, after=after)

    def logs(self, stream: str = "") -> str:
        """What it wrote so far, as a terminal shows it; `stream`: "stdout" or "stderr" alone."""
        written = (event for event in self._manager.stored_events(self.id) if isinstance(event, Stream))
        return settled("".join(event.text for event in written if stream in ("", event.name)))

    def view(self) -> View:
        """Everything that there is to see of it now."""
        job = self.job
        found = fold_all(begin(job), self._manager.stored_events(self.id))
        waits = self._manager.waits_for(self.id) if job.status is JobStatus.QUEUED else ""
        return msgspec.structs.replace(found, waits=waits)

    @property
    def files(self) -> dict[str, Path]:
        """Where the files lie that it brought back with `save` or --collect, by name."""
        return {
            event.output_name: Path(event.metadata["path"])
            for event in self._manager.stored_events(self.id)
            if isinstance(event, OutputUpdate) and "path" in event.metadata
        }

    def rerun(
        self,
        *,
        memory: str | int | None = None,
        timeout: str | float | None = None,
        cpus: float | None = None,
        pids: int | None = None,
        shm_size: str | int | None = None,
        runner: str | None = None,
        **container: Any,
    ) -> JobHandle:
        """Start the same work anew, with other limits or elsewhere; inputs as they are now.

        A container has the image that the job had, whatever its name means now, unless `image` is given.
        container: as the options of containers in `run`. Raises a `Refused`.
        """
        unknown = sorted(container.keys() - KEYWORDS)
        if unknown:
            raise InvalidRequest(f"rerun() has no option {unknown[0]!r}. It takes {', '.join(sorted(KEYWORDS))}.")
        asked = Limits(memory=memory, timeout=timeout, cpus=cpus, pids=pids, shm_size=shm_size).asked()
        request = self.job.request
        limits = msgspec.structs.replace(limits_in(self._session, request, runner or request.runner), **asked)
        changes = {"limits": limits, **({"runner": runner} if runner else {})}
        return self.rerun_with(changes, from_python(container))

    def rerun_with(self, changes: dict[str, Any], given: Namespace) -> JobHandle:
        """Start the same work anew with other fields of the request, in a container as `given`. Raises a `Refused`."""
        job = relaunch(self._session, self.job, changes, given=given, inputs=self._inputs)
        return JobHandle(self._session, job, inputs=self._inputs)

    @property
    def brings_back(self) -> bool:
        """Whether its outputs are to become variables of the notebook."""
        shared = self._manager.runner(self._job.request.runner).shares_namespace
        return self._inputs is None and bool(self._job.request.outputs) and not shared

    def put_into(self, namespace: dict[str, Any]) -> None:
        """Assign what it brought back. Raises `OutputMissing` for what can't be decoded."""
        if self.status is JobStatus.COMPLETED and self.brings_back:
            namespace.update({name: self.outputs[name] for name in self._job.request.outputs})

    def _last(self) -> JobUpdate:
        for event in reversed(self._manager.events(self.id, after=max(0, self.job.last_seq - 1))):
            if isinstance(event, JobUpdate):
                return event
        return JobUpdate(status=self.status.value, message=self.job.message)

    def _decode(self, name: str) -> Any:
        with self._lock:
            if name not in self._decoded:
                self._decoded[name] = decode_value(self._values[name], self._job)
            return self._decoded[name]

    def _output(self, name: str) -> Any:
        if name in self._values:
            return self._decode(name)
        if not self.done():
            raise JobNotFinished(self.id, self.status.value)
        cause = f": {first_line(self.job.message)}" if self.status is JobStatus.FAILED else ""
        raise OutputMissing(
            f"Job {self.id} has no output {name!r}. It brought back: {', '.join(self.outputs) or 'nothing'}. "
            f"It is {self.status.value}{cause or '.'}"
        )

    def __repr__(self) -> str:
        return f"<JobHandle {self.line}>"

    def _ipython_display_(self) -> None:
        """Live in the cell that shows it, while it goes on; else IPython takes the static form."""
        from .showing import show_live

        if not show_live(self._session, self):
            raise NotImplementedError

    def _repr_html_(self) -> str:
        return view_html(self.view(), stable=self._session.stable)

    @property
    def line(self) -> str:
        """How it goes or how it ended, on one line."""
        if self._session.stable:
            name = self._job.request.name or "cell"
            return f"{name} · {self._job.request.runner} · {self.status.value}"
        job = self.job
        view = fold_all(begin(job), self._manager.events(self.id, after=max(0, job.last_seq - 1)))
        line = final_line(msgspec.structs.replace(view, usage=job.usage, started=job.started_at, ts=time.time()))
        return f"{self.id[:8]} {line}"


class Outputs(Mapping[str, Any]):
    """What a job brought back, by name. Asking too early raises `JobNotFinished`."""

    def __init__(self, handle: JobHandle) -> None:
        self._handle = handle

    def __getitem__(self, name: str) -> Any:
        return self._handle._output(name)

    def __contains__(self, name: object) -> bool:
        return name != "" and name in self._handle._values

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self._handle._values if name])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"<outputs: {', '.join(self) or 'none yet'}>"


def decode_value(value: Value, job: Job) -> Any:
    """The object, by what the job's profile and runner allow; the value's own word counts for nothing."""
    from ..worker import pickled, values
    from ..worker.execute import attempt

    request = job.request
    found, error = attempt(pickled.decode if request.may_unpickle else values.decode, value)
    if error is None:
        return found
    what = f"Output {value.name!r}" if value.name else "The value of the last expression"
    if value.format == "pickle" and not request.may_unpickle:
        raise OutputMissing(
            f"{what} ({value.type_name}) came as a pickle, which is not opened from a job with profile "
            f"{request.profile.value!r}. Return plain values, arrays or tables, or use --profile trusted."
        )
    raise OutputMissing(
        f"{what} ({value.type_name}) can't be unpacked here: {type(error).__name__}: {error}"
    ) from error

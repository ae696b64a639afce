"""JobExecutionManager: takes jobs, runs them on a thread of its own, and tells everyone who listens."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self
from uuid import uuid4

import anyio
import msgspec

from .admission import Admission
from .config import Settings
from .containers import ContainerOptions
from .engine import Engine, private_folders
from .errors import InvalidRequest, JobNotFinished, JobNotFound
from .events import AnyEvent
from .feed import Listener, Subscription
from .following import catch_up, follow
from .frames import Value
from .jobs import Job, JobRequest, JobStatus, Profile, checked
from .runners.base import Parcel, Runner
from .stores.base import JobStore, Owner
from .stores.owners import owner_labels, this_process
from .worker.pickled import encode_input

_UNTRUSTED_SECONDS = 300.0
_UNTRUSTED_LOG_BYTES = 2 << 20
_POLL_SECONDS = 0.5
_MOST_NAMED = 1_000
_CONTAINERS_AT_ONCE = "docker_max_jobs"


class JobExecutionManager:
    """Supervises the jobs of one process.

    Every method may be called from any thread but the manager's own, which runs an event loop. It
    starts with the first call that needs it; `close` stops every job. A job's status is changed by
    its `Supervision` alone, and nobody hears of a change before the store has it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        store: JobStore | None = None,
        runners: Sequence[Runner] | None = None,
        kernel_id: str = "",
    ) -> None:
        self.settings = settings or Settings()
        self.owner: Owner = this_process(self.settings.user, kernel_id)
        self._runners = {
            runner.name: runner
            for runner in (_known_runners(self.settings, self.owner) if runners is None else runners)
        }
        self._given_store = store
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Open the store and start the thread; done by the first call that needs it. Raises `StoreError`."""
        self._running()

    def close(self) -> None:
        """Stop every job, wait for their ends, and give everything back. A closed manager stays closed."""
        with self._lock:
            before, self._closed = self._closed, True
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        elif not before:  # no job ran, but a runner may have been asked; here, a loop may be running already
            closing = threading.Thread(target=lambda: anyio.run(self._close_runners), name="nodetool-close")
            with suppress(RuntimeError):  # at the interpreter's end newer Pythons start no thread, and all goes anyway
                closing.start()
                closing.join()

    async def _close_runners(self) -> None:
        for runner in self._runners.values():
            await runner.close()

    @property
    def store(self) -> JobStore:
        """The store, opened."""
        return self._running().store

    @property
    def warnings(self) -> list[str]:
        """Sentences for the person: about what was found at the start, and what can't be read."""
        engine = self._running()
        engine.warnings += [sentence for sentence in engine.store.warnings if sentence not in engine.warnings]
        return engine.warnings

    def runner(self, name: str) -> Runner:
        """The runner of this name. Raises `InvalidRequest` that names the known ones, or a setting that it can't do
        without."""
        if name not in self._runners:
            known = ", ".join(sorted(self._runners))
            raise InvalidRequest(f"There is no runner {name!r}. Choose one of: {known}.")
        if name == "docker":
            self.settings[_CONTAINERS_AT_ONCE]
        return self._runners[name]

    @property
    def runners(self) -> Mapping[str, Runner]:
        """Every runner, by name."""
        return self._runners

    def submit(self, request: JobRequest, parcel: Parcel = Parcel(), *, job_id: str | None = None) -> Job:  # noqa: B008 - frozen and empty
        """Take a job; it is stored when this returns. Raises a `Refused`, `JobExists` or `StoreError`."""
        request = as_it_runs(checked(request))
        runner = self.runner(request.runner)
        runner.check(request)
        engine = self._running()
        job = Job(
            id=_checked_id(job_id) if job_id is not None else uuid4().hex,
            user=self.owner.user,
            owner=self.owner.id,
            request=request,
            created_at=time.time(),
        )
        return engine.submit(job, parcel, runner)

    def cancel(self, job_id: str, *, grace_seconds: float | None = None) -> bool:
        """Ask for the end of a job; `False` when it had ended. Raises `JobNotFound`.

        A job of another kernel is not touched: `InvalidRequest`.
        """
        engine = self._running()
        if (stopped := engine.cancel(job_id, grace_seconds)) is not None:
            return stopped
        job = self.get(job_id)
        if not job.status.final and job.owner != self.owner.id:
            raise InvalidRequest(f"Job {job_id[:8]} runs in {self._kernel_of(job)}. Cancel it there, or end it.")
        return False

    def feed(self, job_id: str, name: str, value: object) -> bool:
        """Send a value to a job while it runs, or before it starts: its code gets it with `fed(name)`.

        `False` when the job has ended. Raises `ValueCannotTravel`, `JobNotFound`; `InvalidRequest` for a
        job of another kernel.
        """
        job = self.get(job_id)
        if job.status.final:
            return False
        if job.owner != self.owner.id:
            raise InvalidRequest(f"Job {job_id[:8]} runs in {self._kernel_of(job)}. Send it values there.")
        runner = self.runner(job.request.runner)
        if runner.shares_namespace:
            return self._running().feed(job_id, Value(name, "object", type(value).__name__, body=value))
        most, other = job.request.most_bytes_in, runner.speaks_other(job.request)
        fields, buffers = encode_input(name, value, max_bytes=most, other_python=other)
        return self._running().feed(job_id, Value(**{**fields, "sizes": tuple(fields["sizes"])}, body=buffers))

    def _kernel_of(self, job: Job) -> str:
        """Which kernel another one's job is in, as a person can find it."""
        owner = next((one for one in self.store.owners() if one.id == job.owner), None)
        if owner is None:
            return "another kernel"
        where = f" on {owner.host}" if owner.host != self.owner.host else ""
        return f"another kernel (process {owner.pid}{where})"

    def get(self, job_id: str) -> Job:
        """The job as it is stored. Raises `JobNotFound`."""
        engine = self._running()
        job = engine.committed(job_id) or engine.store.get(job_id)
        if job is None or job.user != self.owner.user:
            raise JobNotFound(job_id)
        return job

    def resolve(self, text: str) -> Job:
        """The job with this id, this beginning of an id, or this name; or `-1` (the last), `-2`, ….

        A name is looked for among the newest jobs, and means the one that has not ended, else the newest.
        Raises `JobNotFound`, also when several fit.
        """
        if text.startswith("-") and text[1:].isdigit() and int(text) < 0:
            back = -int(text)
            jobs = self.find(owner=self.owner.id, limit=back) or self.find(limit=back)
            if len(jobs) < back:
                raise JobNotFound(text)
            return jobs[back - 1]
        matches = self.store.find(user=self.owner.user, prefix=text, limit=6) if text else []
        if exact := [job for job in matches if job.id == text]:
            return exact[0]
        named = [job for job in self.find(limit=_MOST_NAMED) if text and job.request.name == text]
        going_on = [job for job in named if not job.status.final]
        found = {job.id: job for job in [*matches, *(going_on or named[:1])]}
        if not found and text:
            return self.get(text)  # says what is wrong with a job that can't be read
        if len(found) != 1:
            letters = max(8, len(text) + 4)
            raise JobNotFound(text, [f"{job.id[:letters]} ({job.status.value})" for job in found.values()])
        return next(iter(found.values()))

    def find(
        self,
        *,
        owner: str | None = None,
        statuses: Collection[JobStatus] | None = None,
        work_hash: str = "",
        labels: Mapping[str, str] | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[Job]:
        """This user's jobs, newest first; `labels`: all that they must have."""
        return self.store.find(
            user=self.owner.user,
            owner=owner,
            statuses=statuses,
            work_hash=work_hash,
            labels=labels,
            limit=limit,
            before=before,
        )

    def end_lost(self) -> None:
        """End the jobs of managers that died; it is done at the start, and every half a minute."""
        self._running().keeper.end_lost()

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait for the end of a job. Raises `JobNotFinished` after `timeout` seconds, `JobNotFound`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if (ended := self._running().wait(job_id, timeout)) is not None:
            return ended
        while not (job := self.get(job_id)).status.final:
            left = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, deadline - time.monotonic())
            if left <= 0:
                raise JobNotFinished(job_id, job.status.value, timeout)
            threading.Event().wait(left)
        return job

    def events(self, job_id: str, after: int = 0) -> list[AnyEvent]:
        """Every stored event with a `seq` above `after`, in order."""
        return list(self.stored_events(job_id, after))

    def stored_events(self, job_id: str, after: int = 0) -> Iterator[AnyEvent]:
        """The same one by one, a page of the store at a time: a log may be larger than what fits into memory."""
        store = self.store
        while page := store.read(job_id, after=after):
            yield from page
            after = page[-1].seq

    def subscribe(self, job_id: str, listener: Listener, *, after: int = 0) -> Callable[[], None]:
        """Tell `listener` of every event above `after`: the stored ones, then live, no gap, no repeat.

        It is called with batches on the manager's thread and must not block. Returns what ends it.
        """
        engine = self._running()
        subscription = Subscription(listener, after)
        if not engine.loop.call(engine.join, job_id, subscription):
            self.get(job_id)
            engine.loop.post(engine.loop.start_soon, catch_up, engine.store, engine.join, job_id, subscription)
        return subscription.cancel

    def watch_store(self, watcher: Callable[[str], None]) -> Callable[[], None]:
        """Tell `watcher` why the store can't be written while jobs wait for it, with the remedy, and "" once it can.

        It is called at once where jobs wait already, on the manager's thread, and must not block. Returns what ends it.
        """
        return self._running().watch_store(watcher)

    def waits_for(self, job_id: str) -> str:
        """What a job of this manager that is queued waits for, for people; "" for any other."""
        return self._engine.waits_for(job_id) if self._engine is not None else ""

    def follow(self, job_id: str, *, after: int = 0) -> AsyncIterator[AnyEvent]:
        """The events above `after`, stored and live, until the job's last; on the caller's own loop."""
        return follow(
            self.store,
            lambda listener: self.subscribe(job_id, listener, after=self.get(job_id).last_seq),
            job_id,
            after,
        )

    def values(self, job_id: str) -> Mapping[str, Value]:
        """What the job has sent back, by name, not decoded; "" is its last expression.

        A live mapping: hold on to it, since the manager forgets those of jobs long ended.
        """
        return self._running().outcome(job_id)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call on the manager's thread after a while; returns what takes it back."""
        return self._running().loop.later(seconds, callback)

    def _running(self) -> Engine:
        engine = self._engine
        if engine is not None:
            return engine
        with self._lock:
            if self._closed:
                raise InvalidRequest("This JobExecutionManager is closed. Make a new one.")
            if self._engine is None:
                self._engine = Engine.started(
                    self.settings, self.owner, self._given_store, tuple(self._runners.values()), _gates(self.settings)
                )
            return self._engine


def as_it_runs(request: JobRequest) -> JobRequest:
    """A request with what its profile allows where nobody asked for something else, which is so for untrusted ones."""
    if request.profile is not Profile.UNTRUSTED:
        return request
    limits = request.limits
    if limits.wall_seconds is None:
        limits = msgspec.structs.replace(limits, wall_seconds=_UNTRUSTED_SECONDS)
    return msgspec.structs.replace(
        request,
        limits=limits,
        max_log_bytes=min(request.max_log_bytes, _UNTRUSTED_LOG_BYTES),
        container=_unfetched(request.container),
    )


def _unfetched(container: ContainerOptions) -> ContainerOptions:
    """An image that is here already: none is fetched to run code that nobody trusts, unless somebody asks for it."""
    return container if container.pull else msgspec.structs.replace(container, pull="never")


def _checked_id(job_id: str) -> str:
    if not (0 < len(job_id) <= 64 and all(ch.isalnum() or ch in "-_" for ch in job_id) and job_id[0] != "-"):
        raise InvalidRequest(f"Job id {job_id!r} can't be used. Take up to 64 letters, digits, '-' and '_'.")
    return job_id


def _gates(settings: Settings) -> Admission:
    return Admission(
        {
            "thread_pool_size": settings["thread_pool_size"],
            "max_workflow_threads": settings["max_workflow_threads"],
            _CONTAINERS_AT_ONCE: settings.or_default(_CONTAINERS_AT_ONCE),
        },
        {
            "threaded": ("thread_pool_size", "max_workflow_threads"),
            "subprocess": ("max_workflow_threads",),
            "docker": (_CONTAINERS_AT_ONCE,),
        },
    )


def _known_runners(settings: Settings, owner: Owner) -> tuple[Runner, ...]:
    from .runners.docker.runner import DockerRunner
    from .runners.subprocess import SubprocessRunner
    from .runners.threaded import ThreadedRunner

    docker = DockerRunner(
        settings.environ,
        labels=owner_labels(owner),
        standby=not settings.test,
        private=private_folders(settings),
        most=settings.or_default(_CONTAINERS_AT_ONCE),
    )
    return ThreadedRunner(), SubprocessRunner(warm=not settings.test), docker

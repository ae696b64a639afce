"""The protocol of runners: a kind of place, and one live worker in it."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..events import Exit, Isolation
from ..frames import Report, Value
from ..jobs import Job, JobRequest


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What a job gets beside its request, and what is never stored.

    inputs: encoded values, or the objects themselves (`format` "object") for a runner in this process.
    namespace: the notebook's own, for a runner that shares it.
    environ: the whole environment of the job, secrets apart. secrets: name to value.
    sys_path: the kernel's, given to a worker with the same interpreter only.
    sources: of the cells that code among the inputs comes from, by file name; see `worker.sources`.
    context: the context variables of the caller, which decide where IPython shows a thread's output.
    report: takes what a runner says of a start that takes long; on the manager's loop only.
    """

    inputs: Sequence[Value] = ()
    namespace: dict[str, Any] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    sys_path: Sequence[str] = ()
    sources: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    context: contextvars.Context | None = None
    report: Callable[[Report], object] = lambda report: None


class Worker(Protocol):
    """One live worker. All methods are called on the manager's event loop."""

    def isolation(self) -> Isolation:
        """What is really in force for this job."""
        ...

    def reports(self) -> AsyncIterator[Sequence[Report]]:
        """Batches of what the worker reports, in order; ends when nothing more can come.

        Raises `ProtocolError` when the worker sends what is not allowed; the caller then stops it.
        """
        ...

    def feed(self, value: Value) -> None:
        """Send a value to the job while it runs; returns at once."""
        ...

    def stop(self, grace_seconds: float) -> None:
        """Begin to interrupt, terminate, kill. Returns at once; further calls change nothing."""
        ...

    async def wait(self) -> Exit:
        """How the worker ended, once it is proven gone with everything that it started."""
        ...


class Runner(Protocol):
    """A kind of place. `shares_namespace`: its jobs work on the notebook's own variables."""

    name: str
    shares_namespace: bool

    def check(self, request: JobRequest) -> None:
        """Refuse what can't run here, before a job exists: raises a `Refused`.

        Covers the runner itself (`RunnerUnavailable`), the profile (`ProfileRefused`) and limits
        that can't be held (`LimitNotHeld`, unless `best_effort`). May be called from any thread.
        """
        ...

    def holds(self) -> Mapping[str, str]:
        """Which limits of `LIMIT_NAMES` it can hold on this machine, each with its mechanism."""
        ...

    def foresee(self, request: JobRequest) -> Isolation:
        """What would be in force for a request that `check` let pass; nothing is started. Raises `Refused`."""
        ...

    def speaks_other(self, request: JobRequest) -> str:
        """The version of the job's Python, if values must travel in forms that every version reads; else "".

        May be called from any thread. Raises `Refused`.
        """
        ...

    def launch(self, job: Job, parcel: Parcel) -> AbstractAsyncContextManager[Worker]:
        """Start a worker. On leaving, the worker is gone; what is left of it runs no more and goes before `close` ends.

        Raises `WorkerNotStarted` (with the cause as its text) when it can't be started.
        """
        ...

    async def close(self) -> None:
        """Give back what the runner itself holds; every worker is gone by then."""
        ...


class Swept(NamedTuple):
    """What a runner removed, by name, and what it could not, each with the reason."""

    removed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@runtime_checkable
class Sweeper(Protocol):
    """A runner whose jobs may outlive their manager, where nobody else would remove them."""

    def sweep(self, gone: Callable[[Mapping[str, str]], bool], *, built_before: float = 0.0) -> Swept:
        """Remove what carries labels of managers that are `gone`, and what was built for jobs before a time.

        Costs nothing where there can't be anything. From any thread; blocks.
        """
        ...


@runtime_checkable
class Reserver(Protocol):
    """A runner with things that only one job may have at a time. All methods are called on the manager's loop.

    reserves: what such a thing is called, as in "a GPU".
    """

    reserves: str

    def wants(self, job: Job) -> str:
        """Equal for jobs of which none can have what it must have when one can't; "" for those that need nothing."""
        ...

    def reserve(self, job: Job) -> bool:
        """Keep for a queued job what it must have for itself; false while others have it. Returns at once.

        `launch` takes it over. Called again a moment later for a job that waits; others go before it meanwhile.
        """
        ...

    def unreserve(self, job_id: str) -> None:
        """Give back what was kept for a job that was never launched."""
        ...


class WorkerNotStarted(Exception):
    """The worker could not be started; the text says why and what to do. options: as `Refused` has them."""

    def __init__(self, text: str, *, options: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.options = options


class WorkerNotGone(WorkerNotStarted):
    """The start was called off, and it can't be proven that nothing of it is left; the text says why."""

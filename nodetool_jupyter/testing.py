"""Fakes for tests of your own: a runner that follows a script, and a way to collect events."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum

import anyio

from .events import AnyEvent, Exit, Isolation, Signalled
from .frames import Report, Returned, Value
from .jobs import Job, JobRequest
from .manager import JobExecutionManager
from .runners.base import Parcel, WorkerNotStarted


class Step(Enum):
    """What a script can do beside reporting."""

    PAUSE = "wait for `ScriptedRunner.resume`, or for the stop"
    HANG = "wait for the stop only"


class ScriptedRunner:
    """A runner whose every job reports what the script says, then ends with `exit`.

    A stop ends a pause and the script, with signal SIGINT, unless `stubborn`: then only `resume` does.
    `refuse` is raised by `check`, `fail_to_start` is the text of `WorkerNotStarted`. `parcels`,
    `jobs` and `fed` record what was launched and sent. `resume` may be called from any thread.
    """

    shares_namespace = False

    def __init__(
        self,
        *script: Report | Step,
        exit: Exit = Exit(code=0),  # noqa: A002, B008 - the event has this name, and it is frozen
        name: str = "scripted",
        stubborn: bool = False,
        refuse: Exception | None = None,
        fail_to_start: str = "",
    ) -> None:
        self.name = name
        self.jobs: list[Job] = []
        self.parcels: list[Parcel] = []
        self.script = script or (Returned(),)
        self.exit = exit
        self.stubborn = stubborn
        self.fed: list[Value] = []
        self.closed = False
        self._refuse = refuse
        self._fail_to_start = fail_to_start
        self._resumed = threading.Event()

    def resume(self) -> None:
        """Let every pause end, now and later."""
        self._resumed.set()

    def check(self, request: JobRequest) -> None:
        """Raise what the test wants refused."""
        if self._refuse is not None:
            raise self._refuse

    def holds(self) -> Mapping[str, str]:
        """Nothing but the wall clock."""
        return {"wall_seconds": "manager"}

    def foresee(self, request: JobRequest) -> Isolation:
        """Nothing."""
        return Isolation(runner=self.name, profile=request.profile.value)

    def speaks_other(self, request: JobRequest) -> str:
        """No Python but this one."""
        return ""

    def launch(self, job: Job, parcel: Parcel) -> AbstractAsyncContextManager[ScriptedWorker]:
        """Start the script."""
        return self._launch(job, parcel)

    @asynccontextmanager
    async def _launch(self, job: Job, parcel: Parcel) -> AsyncIterator[ScriptedWorker]:
        self.jobs.append(job)
        self.parcels.append(parcel)
        if self._fail_to_start:
            raise WorkerNotStarted(self._fail_to_start)
        yield ScriptedWorker(self, self._resumed)

    async def close(self) -> None:
        """Remember that the manager closed it."""
        self.closed = True


class ScriptedWorker:
    """One run of a script."""

    def __init__(self, runner: ScriptedRunner, resumed: threading.Event) -> None:
        self._runner = runner
        self._resumed = resumed
        self._stopped = anyio.Event()
        self._done = anyio.Event()

    def isolation(self) -> Isolation:
        """A script is isolated from nothing."""
        return Isolation(runner=self._runner.name, profile="default")

    async def reports(self) -> AsyncIterator[Sequence[Report]]:
        """Each report of the script as a batch of its own."""
        for step in self._runner.script:
            if isinstance(step, Step):
                if await self._pause(step):
                    break
            else:
                yield [step]
        self._done.set()

    async def _pause(self, step: Step) -> bool:
        """Wait; whether the stop ended it."""
        while not (step is Step.PAUSE and self._resumed.is_set()):
            if self._stopped.is_set() and not self._runner.stubborn:
                return True
            with anyio.move_on_after(0.005):
                await (anyio.sleep_forever() if self._runner.stubborn else self._stopped.wait())
        return False

    def feed(self, value: Value) -> None:
        """Remember what was sent."""
        self._runner.fed.append(value)

    def stop(self, grace_seconds: float) -> None:
        """End the script at its pause."""
        self._stopped.set()

    async def wait(self) -> Exit:
        """The scripted exit, or the one of a stop."""
        await self._done.wait()
        if self._stopped.is_set() and not self._runner.stubborn:
            return Exit(signal="SIGINT", sent=(Signalled("SIGINT", 0.0, 1),), processes_reaped=1)
        return self._runner.exit


def collect(manager: JobExecutionManager, job_id: str, timeout: float = 30.0) -> list[AnyEvent]:
    """Every event of a job, once it has ended; `JobNotFinished` when it does not within `timeout` seconds."""
    manager.wait(job_id, timeout)
    return manager.events(job_id)

"""Jobs in containers of the test run's own engine, and what can be asked about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nodetool_jupyter.config import Settings, job_environment
from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.events import AnyEvent, Isolation
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Parcel
from nodetool_jupyter.worker.pickled import decode
from tests.engine import images
from tests.engine.private import Engine, until
from tests.workflows.seeing import HANG_GUARD_SECONDS, Seen, of

SLEEP = "import time\nprint('up', flush=True)\nwhile True:\n    time.sleep(0.01)"
STUBBORN = (
    "import signal, time\nfor n in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(n, signal.SIG_IGN)\n"
    "print('up', flush=True)\nwhile True:\n    time.sleep(1)"
)


class Jobs:
    """A manager whose jobs run in containers of one engine."""

    def __init__(self, manager: JobExecutionManager, engine: Engine) -> None:
        self.manager = manager
        self.engine = engine

    def submit(
        self, code: str, *, job_id: str | None = None, secrets: dict[str, str] | None = None, values: Any = (),
        container: ContainerOptions | None = None, **fields: Any,
    ) -> Job:  # fmt: skip
        """`values`: encoded inputs."""
        options = container or ContainerOptions()
        options = msgspec.structs.replace(options, image=options.image or images.IMAGE)
        request = JobRequest(work=CodeWork(code), runner="docker", container=options, **fields)
        environ = job_environment(self.manager.settings.environ, request)
        parcel = Parcel(inputs=values, environ=environ, secrets=secrets or {})
        return self.manager.submit(request, parcel, job_id=job_id)

    def run(self, code: str, **fields: Any) -> tuple[Job, list[AnyEvent]]:
        """To its end."""
        return self.end(self.submit(code, **fields))

    def end(self, job: Job) -> tuple[Job, list[AnyEvent]]:
        """Wait for it."""
        return self.manager.wait(job.id, HANG_GUARD_SECONDS), self.manager.events(job.id)

    def seen(self, job: Job, line: str = "up") -> Seen:
        """Once it has printed a line."""
        seen = Seen(self.manager, job)
        seen.printed(line)
        return seen

    def value(self, job: Job, name: str) -> Any:
        """What came back."""
        return decode(self.manager.values(job.id)[name])

    def container_of(self, job: Job) -> str:
        """The start of its container's id."""
        return isolation(self.manager.events(job.id)).details["container"]

    def inspect(self, job: Job) -> dict[str, Any]:
        """What the engine tells of a job that runs."""
        with self.engine.client() as client:
            return client.api.inspect_container(self.container_of(job))

    def containers(self) -> list[str]:
        """The ids of every container that this manager has."""
        with self.engine.client() as client:
            label = {"label": f"nodetool.owner={self.manager.owner.id}"}
            return [one["Id"] for one in client.api.containers(all=True, filters=label)]

    def nothing_is_left(self) -> None:
        """Every container is gone, at once or soon: a job's end doesn't wait for the removal of what has ended."""
        until(lambda: not self.containers(), "no container is left")


@contextmanager
def jobs_on(engine: Engine, environ: dict[str, str]) -> Iterator[Jobs]:
    """A manager with these settings."""
    with JobExecutionManager(Settings({**environ, **engine.environ})) as manager:
        yield Jobs(manager, engine)


def kept_environ(environ: dict[str, str], folder: Path) -> dict[str, str]:
    """As a person's kernel has it: jobs are stored in a folder, and containers wait for the next."""
    url = f"sqlite:///{folder / 'jobs.sqlite'}"
    return {**{name: value for name, value in environ.items() if name != "ENV"}, "NODETOOL_DATABASE_URL": url}


def isolation(events: list[AnyEvent]) -> Isolation:
    """What was in force."""
    [found] = of(events, Isolation)
    return found

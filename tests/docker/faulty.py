"""Managers whose jobs run on an engine with faults, and what there is of them."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nodetool_jupyter.config import Settings
from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.events import Stream
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Parcel
from tests.engine import images
from tests.engine.private import Engine, until

GUARD_SECONDS = 90.0
SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(600)"


class Jobs:
    """A manager's docker jobs."""

    def __init__(self, manager: JobExecutionManager, environ: dict[str, str]) -> None:
        self.manager = manager
        self._environ = environ

    def submit(self, code: str, *, image: str = images.IMAGE, pull: str = "missing", **fields: Any) -> Job:
        container = ContainerOptions(image=image, pull=pull)
        request = JobRequest(work=CodeWork(code), **{"runner": "docker", "container": container, **fields})
        return self.manager.submit(request, Parcel(environ=self._environ))

    def up(self, code: str = SLEEPS, **fields: Any) -> Job:
        """A job that has printed something."""
        job = self.submit(code, **fields)
        until(lambda: self.says(job) or self.manager.get(job.id).status.final, "the job prints")
        assert self.says(job), self.end(job).message
        return job

    def says(self, job: Job) -> str:
        return "".join(one.text for one in self.manager.events(job.id) if isinstance(one, Stream))

    def end(self, job: Job) -> Job:
        return self.manager.wait(job.id, GUARD_SECONDS)

    def run(self, code: str, **fields: Any) -> Job:
        return self.end(self.submit(code, **fields))

    def outcome(self, job: Job) -> str:
        """How it ended: "failed lost"."""
        ended = self.end(job)
        return f"{ended.status.value} {ended.reason.value}" if ended.reason else ended.status.value


@contextmanager
def jobs_on(url: str, environ: dict[str, str], *, standby: Path | None = None, checked: bool = True) -> Iterator[Jobs]:
    """standby: a folder for the store of a manager that is not `ENV=test` and keeps containers waiting.

    checked: in the end this process has no thread of ours and no connection to the engine that it didn't have before.
    """
    given = {**environ, "DOCKER_HOST": url}
    if standby is not None:
        given = {**given, "ENV": "", "NODETOOL_DATABASE_URL": f"sqlite:///{standby / 'jobs.sqlite'}"}
    before = held(url)
    with JobExecutionManager(Settings(given)) as manager:
        yield Jobs(manager, given)
    if checked:
        until(lambda: not held(url, before), "threads and descriptors are given back")


def held(url: str, before: Sequence[str] = ()) -> list[str]:
    """This process's own threads, and connections to an engine, but those before."""
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("nodetool")]
    return [one for one in (*threads, *_connections(url.removeprefix("unix://"))) if one not in before]


def _connections(path: str) -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as copy:
                    if copy.family == socket.AF_UNIX and copy.getpeername() == path:
                        yield os.readlink(f"/proc/self/fd/{name}")


def containers(engine: Engine) -> list[str]:
    with engine.client() as client:
        return [f"{one['Names']} {one['State']}" for one in client.api.containers(all=True)]


def eventually_empty(engine: Engine) -> None:
    until(lambda: not containers(engine), "the engine has no container")

"""Real jobs in real processes, and the proof that they leave nothing behind."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import uuid4

import anyio
import psutil

from nodetool_jupyter import places
from nodetool_jupyter.events import Exit, Isolation, Stream, UsageUpdate
from nodetool_jupyter.frames import Raised, Report, Returned, Value
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest
from nodetool_jupyter.runners.base import Parcel, Worker
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from nodetool_jupyter.worker import tree

HANG_GUARD_SECONDS = 60.0
_IDLE_THREAD = "AnyIO worker thread"  # told to end when its loop ends, but not waited for
T = TypeVar("T")
OnReport = Callable[[Worker, Report], object]


@dataclass
class Outcome:
    """What one job reported, and how it ended."""

    reports: list[Report]
    exit: Exit
    isolation: Isolation

    def text(self, name: str = "stdout") -> str:
        return "".join(report.text for report in self.reports if isinstance(report, Stream) and report.name == name)

    @property
    def terminal(self) -> Returned | Raised | None:
        ends = [report for report in self.reports if isinstance(report, Returned | Raised)]
        assert len(ends) <= 1
        return ends[0] if ends else None

    @property
    def usage(self) -> UsageUpdate:
        return [report for report in self.reports if isinstance(report, UsageUpdate)][-1]

    def value(self, name: str) -> object:
        [found] = [report for report in self.reports if isinstance(report, Value) and report.name == name]
        return found


@dataclass
class Place:
    """Runs code in processes, with control groups or without; knows whose things are whose."""

    grouped: bool
    owner: str = field(default_factory=lambda: f"t{uuid4().hex[:12]}")
    jobs: list[str] = field(default_factory=list)

    def run(self, code: str, *, on_report: OnReport = lambda worker, report: None, **fields: object) -> Outcome:
        """One job under a supervisor of its own."""
        return self.session(lambda runner: self.drive(runner, code, on_report=on_report, **fields))

    def session(self, work: Callable[[SubprocessRunner], Awaitable[T]]) -> T:
        """Something with a runner, which is closed at the end."""

        async def main() -> T:
            runner = SubprocessRunner(use_cgroups=self.grouped)
            with anyio.fail_after(HANG_GUARD_SECONDS):
                try:
                    return await work(runner)
                finally:
                    await runner.close()

        return anyio.run(main)

    async def drive(
        self,
        runner: SubprocessRunner,
        code: str,
        *,
        on_report: OnReport = lambda worker, report: None,
        environ: Mapping[str, str] | None = None,
        inputs: Sequence[Value] = (),
        **fields: object,
    ) -> Outcome:
        request = JobRequest(work=CodeWork(code), runner="subprocess", **fields)  # type: ignore[arg-type]
        runner.check(request)
        job = self.job(request)
        parcel = Parcel(environ=os.environ if environ is None else environ, sys_path=sys.path, inputs=inputs)
        reports: list[Report] = []
        async with runner.launch(job, parcel) as worker:
            async for batch in worker.reports():
                for report in batch:
                    reports.append(report)
                    on_report(worker, report)
            exit_event = await worker.wait()
            return Outcome(reports, exit_event, worker.isolation())

    def job(self, request: JobRequest) -> Job:
        job = Job(
            id=f"{self.owner}-{len(self.jobs)}", user="me", owner=self.owner, request=request, created_at=time.time()
        )
        self.jobs.append(job.id)
        return job

    def leftovers(self) -> dict[str, list[str]]:
        """What there is of this place's jobs outside of this process."""
        wanted = set(self.jobs)
        tagged = [
            f"{process.pid} {process.info['cmdline']}"
            for process in psutil.process_iter(["cmdline"])
            if tree.job_of(process.pid) in wanted
        ]
        root = places.job_root() / self.owner
        mark = f"-{self.owner}-"
        groups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if mark in os.path.basename(path)]
        return {
            "processes": tagged,
            "folders": [str(path) for path in root.rglob("*")] if root.exists() else [],
            "cgroups": groups,
        }


def held_by_this_process() -> dict[str, list[str]]:
    """Descriptors, children (and which are zombies) and threads of the process that runs the tests."""
    descriptors = []
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    # whether one that other tests share, as an engine, sleeps or runs just now says nothing
    children = [f"{child.pid} {'zombie' * ended(child)}" for child in psutil.Process().children()]
    return {
        "descriptors": sorted(descriptors),
        "children": sorted(children),
        "threads": sorted(thread.name for thread in threading.enumerate() if thread.name != _IDLE_THREAD),
    }


def ended(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie that waits for its reaper has."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def supervisors(pid: int) -> list[psutil.Process]:
    """The living supervisors among a process's children."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie has no command line
            found += [child] if "supervisor.py" in " ".join(child.cmdline()) else []
    return found


def once_printed(text: str, act: Callable[[Worker], object]) -> OnReport:
    """Do this once, when the worker has printed this: what one `print` writes may come in several reports."""
    seen = ""

    def on_report(worker: Worker, report: Report) -> None:
        nonlocal seen
        # newer Pythons warn of a fork on stderr
        if isinstance(report, Stream) and report.name == "stdout" and text not in seen:
            seen += report.text
            if text in seen:
                act(worker)

    return on_report


def stop_at(text: str, grace_seconds: float) -> OnReport:
    """Stop the worker once it has printed this."""
    return once_printed(text, lambda worker: worker.stop(grace_seconds))

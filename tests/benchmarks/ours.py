"""Jobs through the whole product: request, manager, durable record, events, result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nodetool_jupyter import CodeWork, JobExecutionManager, JobRequest, JobStatus
from nodetool_jupyter.config import Settings, job_environment
from nodetool_jupyter.events import AnyEvent, Isolation, LogUpdate
from nodetool_jupyter.following import ends
from nodetool_jupyter.runners.base import Parcel
from tests.benchmarks.measure import median_seconds


@contextmanager
def manager(folder: Path) -> Iterator[JobExecutionManager]:
    """A running one on SQLite, as a notebook has it."""
    settings = Settings({**os.environ, "NODETOOL_DATABASE_URL": f"sqlite:///{folder / 'jobs.sqlite'}"})
    with JobExecutionManager(settings) as running:
        yield running


def work(code: str, runner: str, **fields: Any) -> tuple[JobRequest, Parcel]:
    """What is submitted for a piece of code."""
    request = JobRequest(work=CodeWork(code), runner=runner, **fields)
    return request, Parcel(environ=job_environment(os.environ, request), sys_path=sys.path, namespace={})


def job(running: JobExecutionManager, code: str, runner: str) -> None:
    """One job, from the request to its committed end."""
    submitted = running.submit(*work(code, runner))
    ended = running.wait(submitted.id, timeout=60)
    assert ended.status is JobStatus.COMPLETED, ended.message


def submit_to_result(running: JobExecutionManager, runner: str, *, runs: int) -> float:
    """A trivial job."""
    return median_seconds(lambda: job(running, "1 + 1", runner), runs=runs, warm=3)


def jobs_per_second(running: JobExecutionManager, runner: str, *, count: int) -> float:
    """Trivial jobs, as many at once as the settings allow."""
    start = time.perf_counter()
    for submitted in [running.submit(*work("1 + 1", runner)) for _ in range(count)]:
        running.wait(submitted.id, timeout=60)
    return count / (time.perf_counter() - start)


def wait_until_warm(running: JobExecutionManager) -> None:
    """Run jobs until one finds an interpreter that waited for it, as all but a kernel's first ones do."""
    guard = time.monotonic() + 60
    while True:
        submitted = running.submit(*work("1 + 1", "subprocess"))
        running.wait(submitted.id, timeout=60)
        [isolation] = [event for event in running.events(submitted.id) if isinstance(event, Isolation)]
        if isolation.details["start"] != "new interpreter":
            return
        assert time.monotonic() < guard, "no interpreter waits"


REPORTS = """
from nodetool_jupyter.worker.current import current
emit = current().outlet.emit
for i in range({}): emit({{"type": "log_update", "node_name": "root", "content": f"record {{i}}", "severity": "info"}})
"""
RECORDS = "import logging\nlog = logging.getLogger()\nfor i in range({}): log.warning('record %d', i)"


def events_per_second(
    running: JobExecutionManager, runner: str, *, count: int, code: str = REPORTS, busy: bool = False
) -> float:
    """Records of a log from a child to a subscriber, each committed before it is delivered.

    code: what sends them; by itself as fast as a worker can, so that only the way is measured. busy: the main
    thread is, in pure Python.
    """
    seen: list[AnyEvent] = []
    start = time.perf_counter()
    submitted = running.submit(*work(code.format(count), runner))
    unsubscribe = running.subscribe(submitted.id, seen.extend)
    while busy and not any(map(ends, seen[-1:])):
        sum(range(100))
    running.wait(submitted.id, timeout=120)
    taken = time.perf_counter() - start
    unsubscribe()
    found = sum(isinstance(event, LogUpdate) for event in seen)
    assert found == count, f"{found} of {count} records"
    assert found == sum(isinstance(event, LogUpdate) for event in running.events(submitted.id))
    return count / taken


def in_a_fresh_interpreter(code: str, *, runs: int = 5) -> float:
    """The median of what `code` prints last: seconds, measured by itself."""
    taken = []
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
        taken.append(float(json.loads(done.stdout.splitlines()[-1])))
    return sorted(taken)[len(taken) // 2]


IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"

LOAD = """
import time, ipykernel.ipkernel, ipykernel.zmqshell, ipykernel.kernelapp
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
t = time.perf_counter()
shell.run_line_magic("load_ext", {!r})
print(time.perf_counter() - t)
"""

FIRST_JOB = """
import sys, tempfile, time
from pathlib import Path
from tests.benchmarks import ours
with tempfile.TemporaryDirectory() as folder:
    t = time.perf_counter()
    with ours.manager(Path(folder)) as running:
        ours.job(running, "1 + 1", {!r})
        taken = time.perf_counter() - t
print(taken)
"""


def first_job(runner: str) -> float:
    """The first job of a kernel: imports, a new database, the manager's thread, the supervisor."""
    return in_a_fresh_interpreter(FIRST_JOB.format(runner), runs=3)


def import_seconds(module: str) -> float:
    """Importing a module in a fresh interpreter."""
    return in_a_fresh_interpreter(IMPORT.format(module))


def load_seconds(extension: str) -> float:
    """`%load_ext` in a kernel's shell."""
    return in_a_fresh_interpreter(LOAD.format(extension))

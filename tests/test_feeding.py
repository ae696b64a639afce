"""Values that are sent to a job while it runs."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable

import pytest

import nodetool_jupyter
from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import ValueCannotTravel
from nodetool_jupyter.events import AnyEvent, Stream
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Parcel
from nodetool_jupyter.testing import ScriptedRunner, Step

CODE = """
import time
from nodetool_jupyter import fed
print("started", fed("rate", 0.5))
while (last := fed("last")) is None:
    time.sleep(0.002)
print(last, fed("rate", 0.5))
"""


@pytest.fixture(params=["threaded", "subprocess"])
def begin(request: pytest.FixtureRequest, manager: JobExecutionManager, settings: Settings) -> Callable[[], Job]:
    def submit() -> Job:
        parcel = Parcel(
            environ=settings.environ, sys_path=tuple(sys.path), namespace={}, context=contextvars.copy_context()
        )
        return manager.submit(JobRequest(work=CodeWork(CODE), runner=request.param), parcel)

    return submit


def text(events: list[AnyEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Stream))


def test_a_running_job_gets_the_newest_value_of_each_name(
    begin: Callable[[], Job], manager: JobExecutionManager
) -> None:
    job = begin()
    started = threading.Event()
    manager.subscribe(job.id, lambda batch: started.set() if any(isinstance(e, Stream) for e in batch) else None)
    assert started.wait(30)
    for rate in (0.1, 0.2):
        assert manager.feed(job.id, "rate", rate)
    assert manager.feed(job.id, "last", {"a": [1, 2]})
    assert manager.wait(job.id, 30).status is JobStatus.COMPLETED
    assert text(manager.events(job.id)) == "started 0.5\n{'a': [1, 2]} 0.2\n"


def test_a_job_that_ended_takes_nothing(begin: Callable[[], Job], manager: JobExecutionManager) -> None:
    job = begin()
    manager.feed(job.id, "last", 1)
    manager.wait(job.id, 30)
    assert manager.feed(job.id, "last", 2) is False


def test_what_is_sent_before_the_start_is_kept(settings: Settings) -> None:
    first, second = (ScriptedRunner(Step.PAUSE, name=name) for name in ("threaded", "subprocess"))
    with JobExecutionManager(
        Settings({**settings.environ, "MAX_WORKFLOW_THREADS": "1"}), runners=[first, second]
    ) as manager:
        manager.submit(JobRequest(work=CodeWork("1"), runner="threaded"))
        waiting = manager.submit(JobRequest(work=CodeWork("1"), runner="subprocess"))
        assert manager.feed(waiting.id, "x", [1, 2])
        first.resume()
        second.resume()
        manager.wait(waiting.id, 30)
        assert [value.name for value in second.fed] == ["x"]


def test_what_cannot_travel_is_refused_by_name(manager: JobExecutionManager, settings: Settings) -> None:
    job = manager.submit(
        JobRequest(work=CodeWork("import time\nwhile True: time.sleep(0.01)"), runner="subprocess"),
        Parcel(environ=settings.environ, sys_path=tuple(sys.path)),
    )
    with pytest.raises(ValueCannotTravel, match="'guard'") as refused:
        manager.feed(job.id, "guard", threading.Lock())
    assert "Nothing was started" not in str(refused.value)  # the job runs
    manager.cancel(job.id)


def test_outside_of_a_job_there_is_only_the_default() -> None:
    assert nodetool_jupyter.fed("rate", 0.5) == 0.5
    assert nodetool_jupyter.fed("rate") is None

"""Tasks of asyncio that an async cell leaves: in both runners that run on this machine, as in a notebook."""

from __future__ import annotations

import pytest

from nodetool_jupyter.events import Display, JobUpdate, LogUpdate, Notification, Stream
from nodetool_jupyter.jobs import JobStatus, Reason, ResourceLimits
from nodetool_jupyter.manager import JobExecutionManager
from tests.workflows.seeing import Run, Seen, Submit, end, notes, of, text

pytestmark = pytest.mark.parametrize("runner", ["threaded", "subprocess"])

LATE = """
import asyncio
async def late():
    for _ in range(9): await asyncio.sleep(0)
    {what}
await asyncio.sleep(0)
task = asyncio.create_task(late())
"""
FOR_EVER = """
import asyncio
async def for_ever():
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up")
task = asyncio.create_task(for_ever())
await asyncio.sleep(0)
"""


def test_a_task_runs_to_its_end_and_the_value_is_shown_before_that(run: Run, runner: str) -> None:
    job, events = run(LATE.format(what="print('late')") + "'ok'", runner=runner)
    assert job.status is JobStatus.COMPLETED
    assert of(events, JobUpdate)[-1].result == "ok"
    assert [type(event) for event in of(events, Display) + of(events, Stream)] == [Display, Stream]
    assert of(events, Display)[0].seq < of(events, Stream)[0].seq
    assert text(events) == "late\n"


def test_tasks_that_a_task_starts_are_waited_for_too(run: Run, runner: str) -> None:
    what = "asyncio.create_task(asyncio.to_thread(print, 'later'))"
    assert text(run(LATE.format(what=what), runner=runner)[1]) == "later\n"


def test_what_a_cell_hands_back_is_taken_when_its_tasks_have_ended(
    manager: JobExecutionManager, submit: Submit, runner: str
) -> None:
    job, _ = end(manager, submit("rows = []\n" + LATE.format(what="rows.append(1)"), runner=runner, outputs=("rows",)))
    value = manager.values(job.id)["rows"]
    assert value.body == [1] if runner == "threaded" else bytes(value.body) == b"[1]"


def test_what_a_task_raises_is_logged_and_fails_nothing(run: Run, runner: str) -> None:
    job, events = run(LATE.format(what="1 / 0"), runner=runner)
    assert job.status is JobStatus.COMPLETED
    (log,) = of(events, LogUpdate)
    assert log.node_name == "asyncio"
    assert log.content.startswith("Task exception was never retrieved")
    assert "ZeroDivisionError" in log.content


def test_what_a_task_raises_and_another_takes_is_not_logged(run: Run, runner: str) -> None:
    code = LATE.format(what="1 / 0") + "asyncio.gather(task, return_exceptions=True)\nNone"
    assert of(run(code, runner=runner)[1], LogUpdate) == []


def test_a_cell_that_raises_cancels_its_tasks(run: Run, runner: str) -> None:
    job, events = run(FOR_EVER + "1 / 0", runner=runner)
    assert job.message == "ZeroDivisionError: division by zero"
    assert text(events) == "cleaned up\n"


def test_a_long_wait_is_told_and_a_cancel_ends_the_tasks(
    manager: JobExecutionManager, submit: Submit, runner: str
) -> None:
    job = submit(FOR_EVER + "'ok'", runner=runner)
    seen = Seen(manager, job)
    seen.wait(lambda event: isinstance(event, Display) and event.result)
    seen.wait(lambda event: isinstance(event, Notification) and "(for_ever)" in event.content)
    assert manager.cancel(job.id)
    job, events = end(manager, job)
    assert job.status is JobStatus.CANCELLED
    assert text(events) == "cleaned up\n"
    assert len(notes(events, "NT-A03")) == 1


def test_the_time_limit_counts_for_tasks(run: Run, runner: str) -> None:
    # it counts from before the process is ready, which on a busy machine takes a while
    job, events = run(FOR_EVER, runner=runner, limits=ResourceLimits(wall_seconds=2 if runner == "threaded" else 10))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.TIMEOUT)
    assert text(events) == "cleaned up\n"

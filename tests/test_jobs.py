"""Statuses and their one transition table, requests and limits."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.errors import StoreConflict
from nodetool_jupyter.jobs import (
    LIMIT_NAMES,
    TRANSITIONS,
    CodeWork,
    Job,
    JobRequest,
    JobStatus,
    Profile,
    Reason,
    ResourceLimits,
    advance,
)
from nodetool_jupyter.manager import as_it_runs

ALLOWED = {
    "queued": "starting cancelled failed",
    "starting": "running cancelling failed",
    "running": "paused suspended cancelling completed failed",
    "paused": "running cancelling failed",
    "suspended": "running cancelling failed",
    "cancelling": "cancelled completed failed",
    "completed": "",
    "failed": "",
    "cancelled": "",
}


def a_job(status: JobStatus = JobStatus.QUEUED) -> Job:
    return Job(id="j", user="u", owner="o", request=JobRequest(work=CodeWork("1")), created_at=0.0, status=status)


@pytest.mark.parametrize(("before", "after"), list(product(JobStatus, JobStatus)))
def test_a_status_follows_exactly_the_ones_it_may(before: JobStatus, after: JobStatus) -> None:
    job = a_job(before)
    if after.value in ALLOWED[before.value].split():
        moved = advance(job, after)
        assert (moved.status, moved.version) == (after, job.version + 1)
    else:
        with pytest.raises(StoreConflict, match=rf"is {before.value}; it can't become {after.value}"):
            advance(job, after)


def test_the_table_has_a_row_for_every_status_and_no_other() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    assert {status.value for status in JobStatus} == set(ALLOWED)


def test_only_three_statuses_are_final() -> None:
    assert {status.value for status in JobStatus if status.final} == {"completed", "failed", "cancelled"}


def test_every_status_that_is_not_final_can_still_end() -> None:
    reached = {status: set(TRANSITIONS[status]) for status in JobStatus}
    for _ in JobStatus:
        for status in JobStatus:
            reached[status] |= {later for step in reached[status] for later in reached[step]}
    assert all(JobStatus.FAILED in reached[status] for status in JobStatus if not status.final)


def test_a_job_that_changed_is_another_value() -> None:
    job = a_job()
    moved = advance(job, JobStatus.STARTING, started_at=2.0)
    assert (job.status, job.started_at, moved.started_at) == (JobStatus.QUEUED, None, 2.0)
    with pytest.raises(AttributeError):
        job.status = JobStatus.RUNNING  # type: ignore[misc]


def test_reasons_are_the_agreed_words() -> None:
    assert {reason.value for reason in Reason} == {
        *("error", "timeout", "out_of_memory", "limit", "killed", "crashed"),
        *("protocol", "no_result", "start_failed", "lost", "storage", "unkillable"),
    }


def test_asked_limits_are_those_that_were_set() -> None:
    limits = ResourceLimits(wall_seconds=5.0, pids=3, best_effort=True)
    assert limits.asked() == {"wall_seconds": 5.0, "pids": 3}
    assert ResourceLimits().asked() == {}
    assert "best_effort" not in LIMIT_NAMES


def test_a_limit_that_nobody_knows_is_not_dropped() -> None:
    with pytest.raises(msgspec.ValidationError, match="memroy"):
        msgspec.json.decode(b'{"memroy": 5}', type=ResourceLimits)


def test_what_was_asked_for_holds_over_what_untrusted_code_gets() -> None:
    untrusted = JobRequest(work=CodeWork("1"), profile=Profile.UNTRUSTED)
    runs = as_it_runs(untrusted)
    assert (runs.most_bytes_back, runs.container.pull) == (32 << 20, "never")
    asked = msgspec.structs.replace(untrusted, max_transfer_bytes=1 << 30, container=ContainerOptions(pull="missing"))
    runs = as_it_runs(asked)
    assert (runs.most_bytes_back, runs.container.pull) == (1 << 30, "missing")
    assert as_it_runs(JobRequest(work=CodeWork("1"))).most_bytes_back == 1 << 30


def test_a_job_survives_being_written_and_read() -> None:
    request = JobRequest(
        work=CodeWork("!ls", "get_ipython().system('ls')", "<cell 3>"),
        runner="subprocess",
        limits=ResourceLimits(memory_bytes=1 << 30),
        inputs=("a", "b"),
        secrets=("TOKEN",),
        env={"K": "V"},
        labels={"team": "x"},
    )
    job = Job(id="j", user="u", owner="o", request=request, created_at=1.5, reason=Reason.LIMIT)
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job


def test_the_text_that_runs_is_the_transformed_one_where_there_is_one() -> None:
    assert CodeWork("!ls", "system('ls')").runnable == "system('ls')"
    assert CodeWork("1 + 1").runnable == "1 + 1"


def test_a_job_is_called_by_its_name_else_by_the_start_of_its_id() -> None:
    job = msgspec.structs.replace(a_job(), id="0123456789abcdef")
    assert job.label == "01234567"
    assert msgspec.structs.replace(job, request=JobRequest(work=CodeWork(""), name="train")).label == "train"

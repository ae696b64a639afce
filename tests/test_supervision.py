"""What one job hands back that can't be told as it is."""

from __future__ import annotations

import pytest

from nodetool_jupyter import supervision
from nodetool_jupyter.config import Settings
from nodetool_jupyter.frames import Returned, Value
from nodetool_jupyter.jobs import CodeWork, JobRequest, JobStatus, Reason
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.testing import ScriptedRunner

REQUEST = JobRequest(work=CodeWork("1"), runner="scripted")


class Loud(str):
    """What numpy's and people's own kinds of text and numbers are like: no plain value."""


def returning(value: object) -> ScriptedRunner:
    return ScriptedRunner(Value("", "object", "any", body=value), Returned())


@pytest.mark.parametrize("value", [Loud("x"), 1 << 64, 10**5000, "x" * 1000], ids=["derived", "wide", "long", "text"])
def test_a_value_that_is_not_small_and_plain_is_left_out_of_the_event_and_harms_nobody(
    settings: Settings, value: object
) -> None:
    with JobExecutionManager(settings, runners=[returning(value)]) as manager:
        job = manager.wait(manager.submit(REQUEST).id, 30)
        assert job.status is JobStatus.COMPLETED
        assert manager.events(job.id)[-1].result is None  # type: ignore[union-attr]
        assert manager.values(job.id)[""].body == value


def test_a_result_that_cannot_be_told_fails_its_job_and_not_the_manager(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untold(value: object) -> None:
        if value is not None:
            raise ValueError("it has no words")

    monkeypatch.setattr(supervision, "_plain", untold)
    with JobExecutionManager(settings, runners=[returning(1)]) as manager:
        for _ in range(2):  # the second: the manager goes on
            job = manager.wait(manager.submit(REQUEST).id, 30)
            assert (job.status, job.reason) == (JobStatus.FAILED, Reason.CRASHED)
            assert "ValueError: it has no words" in job.message

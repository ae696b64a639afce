"""A job is told by its id, the beginning of it, or its name."""

from __future__ import annotations

import pytest

from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import JobNotFound
from nodetool_jupyter.jobs import CodeWork, JobRequest
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.testing import ScriptedRunner, Step
from tests.conftest import HANG_GUARD_SECONDS


def test_a_name_means_the_job_that_goes_on_or_else_the_newest(settings: Settings) -> None:
    held = ScriptedRunner(Step.HANG, name="held")
    with JobExecutionManager(settings, runners=[ScriptedRunner(), held]) as manager:

        def submit(job_id: str, name: str, runner: str = "scripted") -> None:
            manager.submit(JobRequest(work=CodeWork("1"), runner=runner, name=name), job_id=job_id)
            if runner == "scripted":
                manager.wait(job_id, HANG_GUARD_SECONDS)

        for job_id, name in (("a", "train"), ("train-1", ""), ("c", "test"), ("d", "test"), ("e", "once")):
            submit(job_id, name)
        assert manager.resolve("train-").id == "train-1"
        assert manager.resolve("once").id == "e"
        assert manager.resolve("test").id == "d"
        submit("f", "test", "held")
        submit("g", "test")
        assert manager.resolve("test").id == "f"
        submit("h", "test", "held")
        for text in ("train", "test"):  # a name that is also the beginning of an id, and a name of two jobs
            with pytest.raises(JobNotFound, match="Several jobs fit"):
                manager.resolve(text)

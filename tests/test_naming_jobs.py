"""A job is told by its id, the beginning of it, or its name; never by a guess."""

from __future__ import annotations

import pytest

from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import JobNotFound
from nodetool_jupyter.jobs import CodeWork, JobRequest
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.testing import ScriptedRunner
from tests.conftest import HANG_GUARD_SECONDS


def test_a_job_is_found_by_its_name_where_it_is_the_only_one(settings: Settings) -> None:
    with JobExecutionManager(settings, runners=[ScriptedRunner()]) as manager:
        for job_id, name in (("a", "train"), ("train-1", ""), ("c", "test"), ("d", "test"), ("e", "once")):
            request = JobRequest(work=CodeWork("1"), runner="scripted", name=name)
            manager.submit(request, job_id=job_id)
            manager.wait(job_id, HANG_GUARD_SECONDS)
        assert manager.resolve("train-").id == "train-1"
        assert manager.resolve("once").id == "e"
        for text in ("train", "test"):  # a name that is also the beginning of an id, and a name of two jobs
            with pytest.raises(JobNotFound, match="Several jobs fit"):
                manager.resolve(text)

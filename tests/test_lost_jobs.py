"""Jobs of other managers: those of the dead are ended, those of the living are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodetool_jupyter import places
from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import InvalidRequest, JobNotFinished
from nodetool_jupyter.frames import Returned
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus, Reason
from nodetool_jupyter.keeper import Keeper
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Swept
from nodetool_jupyter.stores.base import Change, Owner
from nodetool_jupyter.stores.memory import MemoryStore
from nodetool_jupyter.stores.owners import this_process
from nodetool_jupyter.testing import ScriptedRunner
from tests.engine.private import until


def left_by(store: MemoryStore, owner: Owner, job_id: str) -> Job:
    """An open job of a registered owner."""
    store.register(owner)
    job = Job(
        id=job_id,
        user=owner.user,
        owner=owner.id,
        request=JobRequest(work=CodeWork("1"), runner="scripted"),
        created_at=1.0,
    )
    store.commit([Change(job, 0)])
    return job


def living(settings: Settings) -> Owner:
    return msgspec.structs.replace(this_process(settings.user), id="living")


def dead(settings: Settings) -> Owner:
    return msgspec.structs.replace(this_process(settings.user), id="dead", start_ticks=1)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.open()
    return made


def test_the_jobs_of_a_manager_that_died_are_ended_as_lost(settings: Settings, store: MemoryStore) -> None:
    left_by(store, dead(settings), "left")
    with JobExecutionManager(settings, store=store, runners=[ScriptedRunner()]) as manager:
        ended = manager.wait("left", 30)
        assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.LOST)
        assert [owner.id for owner in store.owners()] == [manager.owner.id]


class Untidy(ScriptedRunner):
    """Fails to look for what is left."""

    def sweep(self, gone: object, *, built_before: float = 0.0) -> Swept:
        raise OSError("no descriptor is left")


def test_housekeeping_that_fails_ends_no_job_and_no_manager(
    settings: Settings, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (tmp_path / places.job_root().name).symlink_to(tmp_path)
    monkeypatch.setattr("nodetool_jupyter.keeper.HEARTBEAT_SECONDS", 0.01)
    with (
        JobExecutionManager(settings, store=store, runners=[Untidy(Returned())]) as manager,
        monkeypatch.context() as unsafe,
    ):
        unsafe.setattr("tempfile.tempdir", str(tmp_path))
        until(lambda: "is not a folder of your own" in caplog.text, "a round has failed")
        job = manager.submit(JobRequest(work=CodeWork("1"), runner="scripted"))
        assert manager.wait(job.id, 30).status is JobStatus.COMPLETED


def test_the_first_listing_shows_no_dead_managers_job_as_open(
    settings: Settings, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keeper, "round", lambda self: None)  # which may take its time
    left_by(store, dead(settings), "left")
    theirs = left_by(store, living(settings), "theirs")
    with JobExecutionManager(settings, store=store, runners=[ScriptedRunner()]) as manager:
        found = {job.id: job for job in manager.find()}
        assert (found["left"].status, found["left"].reason) == (JobStatus.FAILED, Reason.LOST)
        assert found["theirs"] == theirs
        left_by(store, dead(settings), "later")
        manager.end_lost()
        assert manager.get("later").reason is Reason.LOST


def test_a_job_of_another_living_manager_is_not_touched(settings: Settings, store: MemoryStore) -> None:
    job = left_by(store, living(settings), "theirs")
    Keeper(store, this_process(settings.user)).round()
    assert store.get("theirs") == job
    with JobExecutionManager(settings, store=store, runners=[ScriptedRunner()]) as manager:
        with pytest.raises(InvalidRequest, match=r"runs in another kernel \(process \d+\)\. Cancel it there"):
            manager.cancel("theirs")
        with pytest.raises(JobNotFinished):
            manager.wait("theirs", 0.01)

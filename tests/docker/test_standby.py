"""Containers that wait for a job: used once, under the limits of their job, and by nobody who asked for a new one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodetool_jupyter.containers import Bind, ContainerOptions
from nodetool_jupyter.events import Exit
from nodetool_jupyter.jobs import JobStatus, Profile, Reason, ResourceLimits
from nodetool_jupyter.runners.docker import built
from nodetool_jupyter.runners.docker.probe import Python
from tests.docker.jobs import SLEEP, Jobs, isolation, jobs_on, kept_environ
from tests.engine.private import Engine, until
from tests.workflows.seeing import of, text


@pytest.fixture
def jobs(engine: Engine, environ: dict[str, str], tmp_path: Path) -> Iterator[Jobs]:
    with jobs_on(engine, kept_environ(environ, tmp_path)) as found:
        yield found


def waiting(jobs: Jobs, count: int = 1) -> set[str]:
    """The containers that wait, once there are so many."""

    def ready() -> set[str]:
        pool = jobs.manager.runner("docker")._pool  # type: ignore[attr-defined]
        found = {one.box.id[:12] for one in pool._waiting}
        return found if len(found) >= count and not pool._coming else set()

    found: set[str] = until(ready, f"{count} containers wait")
    return found


def running(jobs: Jobs) -> list[str]:
    with jobs.engine.client() as client:
        label = {"label": f"nodetool.owner={jobs.manager.owner.id}"}
        return [one["Id"] for one in client.api.containers(filters=label)]


def test_the_second_job_finds_a_container_waiting_and_each_is_used_once(jobs: Jobs) -> None:
    used = []
    for _ in range(4):
        job, events = jobs.run("print('hello')")
        assert (job.status, text(events)) == (JobStatus.COMPLETED, "hello\n")
        used.append(jobs.container_of(job))
        known = waiting(jobs)
        assert known.isdisjoint(used)
    job, _ = jobs.run("1")
    assert jobs.container_of(job) in known
    assert len(set(used)) == 4


def test_a_waiting_container_gets_the_limits_of_its_job_and_they_are_audited(jobs: Jobs) -> None:
    jobs.run("1")
    known = waiting(jobs)
    limits = ResourceLimits(memory_bytes=200 << 20, cpus=0.5, pids=33)
    job = jobs.submit(SLEEP, limits=limits)
    jobs.seen(job)
    assert jobs.container_of(job) in known
    host = jobs.inspect(job)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        200 << 20, 200 << 20, 500_000_000, 33,
    )  # fmt: skip
    found = isolation(jobs.manager.events(job.id))
    assert found.not_held == ()
    assert found.details["profile_limits"] == {"shm_bytes": 1 << 30, "open_files": 4096}
    jobs.manager.cancel(job.id)
    jobs.end(job)


def test_the_new_limits_hold(jobs: Jobs) -> None:
    jobs.run("1")
    known = waiting(jobs)
    job, _ = jobs.run("kept = bytearray(400 << 20)", limits=ResourceLimits(memory_bytes=100 << 20))
    assert jobs.container_of(job) in known
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.OUT_OF_MEMORY)
    assert "--memory 200m" in job.message


def test_the_least_memory_is_enough_for_a_container_that_waited(jobs: Jobs) -> None:
    jobs.run("1")
    known = waiting(jobs)
    job, _ = jobs.run("1", limits=ResourceLimits(memory_bytes=32 << 20, pids=16))
    assert job.status is JobStatus.COMPLETED, job.message
    assert jobs.container_of(job) in known


def test_more_of_every_limit_than_the_container_waited_with(jobs: Jobs) -> None:
    jobs.run("1", limits=ResourceLimits(memory_bytes=64 << 20, cpus=0.5, pids=20))
    known = waiting(jobs)
    job, events = jobs.run("kept = bytearray(300 << 20)\nprint('held')")
    assert jobs.container_of(job) in known
    assert (job.status, text(events)) == (JobStatus.COMPLETED, "held\n"), job.message


def test_a_trusted_job_takes_no_limits_from_the_container(jobs: Jobs) -> None:
    jobs.run("1", profile=Profile.TRUSTED, limits=ResourceLimits(memory_bytes=64 << 20, pids=20))
    waiting(jobs)
    job = jobs.submit(SLEEP, profile=Profile.TRUSTED)
    jobs.seen(job)
    host = jobs.inspect(job)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"] or 0) == (0, 0, 0)
    jobs.manager.cancel(job.id)
    jobs.end(job)


def test_profiles_and_other_settings_share_no_container(jobs: Jobs) -> None:
    jobs.run("1")
    known = waiting(jobs)
    others = [
        jobs.run("1", profile=Profile.TRUSTED)[0],
        jobs.run("1", profile=Profile.UNTRUSTED)[0],
        jobs.run("1", container=ContainerOptions(read_only=True))[0],
        jobs.run("1", limits=ResourceLimits(shm_bytes=8 << 20))[0],
    ]
    assert {job.status for job in others} == {JobStatus.COMPLETED}
    assert known.isdisjoint(map(jobs.container_of, others))


def test_a_fresh_job_takes_no_waiting_container_and_leaves_none(jobs: Jobs) -> None:
    job, _ = jobs.run("1", fresh=True)
    assert job.status is JobStatus.COMPLETED
    jobs.nothing_is_left()
    jobs.run("1")
    known = waiting(jobs)
    job, _ = jobs.run("1", fresh=True)
    assert jobs.container_of(job) not in known
    assert waiting(jobs) == known


def test_containers_that_wait_are_among_those_that_there_may_be(
    engine: Engine, environ: dict[str, str], tmp_path: Path
) -> None:
    with jobs_on(engine, {**kept_environ(environ, tmp_path), "DOCKER_MAX_JOBS": "1"}) as jobs:
        counted = []
        for user in ("1000", "1001", "1000"):
            first = jobs.submit(SLEEP, container=ContainerOptions(user=user))
            jobs.seen(first)
            counted.append(len(running(jobs)))
            jobs.manager.cancel(first.id)
            jobs.end(first)
            known = waiting(jobs)
            jobs.run("1", container=ContainerOptions(user=user))
            assert jobs.container_of(jobs.manager.find(limit=1)[0]) in known
            waiting(jobs)
        assert counted == [1, 1, 1]


def test_a_container_that_waits_makes_room_for_one_that_is_asked_for_its_python(
    engine: Engine, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    with jobs_on(engine, {**kept_environ(environ, tmp_path), "DOCKER_MAX_JOBS": "1"}) as jobs:
        jobs.run("1")
        waiting(jobs)
        monkeypatch.setattr(built, "probe", lambda *_: counted.append(len(running(jobs))) or Python())
        job, _ = jobs.run("1", container=ContainerOptions(requirements=("alpha",)))
        assert "has no python3 that could take the requirements" in job.message
    assert counted == [0]


def test_with_env_test_no_container_waits(engine: Engine, environ: dict[str, str]) -> None:
    with jobs_on(engine, environ) as jobs:
        jobs.run("1")
        jobs.nothing_is_left()


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_a_container_that_was_ended_while_it_waited_is_passed_over(jobs: Jobs, signal: str) -> None:
    jobs.run("1")
    [dead] = waiting(jobs)
    with jobs.engine.client() as client:
        client.api.kill(dead, signal)
    until(lambda: dead not in {one[:12] for one in jobs.containers()}, "it is removed")
    job, events = jobs.run("print('here')")
    assert (job.status, text(events)) == (JobStatus.COMPLETED, "here\n")
    assert jobs.container_of(job) != dead
    assert of(events, Exit)[0].code == 0


@pytest.mark.parametrize("how", ["pause", "update_container", "rename"])
def test_a_container_that_somebody_touched_while_it_waited_is_given_up(jobs: Jobs, how: str) -> None:
    jobs.run("1")
    [touched] = waiting(jobs)
    more = {"pause": {}, "update_container": {"mem_limit": "300m", "memswap_limit": "300m"}, "rename": {"name": "own"}}
    with jobs.engine.client() as client:
        getattr(client.api, how)(touched, **more[how])
    until(lambda: not any(one.startswith(touched) for one in jobs.containers()), "it is removed")
    job, events = jobs.run("print('hello')")
    assert (job.status, text(events)) == (JobStatus.COMPLETED, "hello\n")
    assert jobs.container_of(job) != touched


def test_few_containers_wait_and_closing_the_manager_removes_them(jobs: Jobs) -> None:
    for shm in range(8, 14):
        jobs.run("1", limits=ResourceLimits(shm_bytes=shm << 20))
    waiting(jobs)
    until(lambda: len(jobs.containers()) <= 4, "no more than four wait")
    jobs.manager.close()
    jobs.nothing_is_left()


def test_a_folder_that_was_made_anew_is_not_shown_by_a_container_that_waited_with_the_old_one(
    jobs: Jobs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shown") / "data"
    seen = []
    for content in ("old", "new"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o755)
        (folder / "file").write_text(content)
        options = ContainerOptions(binds=(Bind(str(folder), "/data", True),))
        job, events = jobs.run("print(open('/data/file').read(), end='')", container=options)
        assert job.status is JobStatus.COMPLETED, job.message
        seen.append(text(events))
        waiting(jobs)
    assert seen == ["old", "new"]

"""What an image is asked before its job starts ends: by itself, by a deadline, or when the job is called off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.jobs import JobStatus, Profile, Reason, ResourceLimits
from nodetool_jupyter.runners.docker import built, probe
from tests.docker.jobs import Jobs, jobs_on
from tests.docker.packages import offline, wheel
from tests.engine import images
from tests.engine.private import Engine, until

ENDLESS = {
    # tells what it is, and never ends when it is to install
    "installs": '[ "$2" = -S ] && exec $REAL "$@"\nexec sleep 1000',
    "never": "exec sleep 1000",
}


@pytest.fixture(scope="module", autouse=True)
def endless(run_engine: Engine) -> Iterator[None]:
    """Images whose `python3` does not end."""
    with run_engine.client() as client:
        for name, script in ENDLESS.items():
            images.load_with_python3(client, f"endless:{name}", script)
        yield
        for name in ENDLESS:
            client.images.remove(f"endless:{name}")


@pytest.fixture
def jobs(engine: Engine, environ: dict[str, str], tmp_path: Path) -> Iterator[Jobs]:
    """Jobs whose pip knows one package."""
    wheel(tmp_path, "alpha")
    with jobs_on(engine, offline(environ, tmp_path)) as found:
        yield found


def wanting(what: str) -> ContainerOptions:
    return ContainerOptions(image=f"endless:{what}", requirements=("alpha",))


@pytest.mark.parametrize("profile", [Profile.DEFAULT, Profile.UNTRUSTED])
def test_installing_has_a_deadline(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, profile: Profile) -> None:
    monkeypatch.setattr(built, "_BUILD_SECONDS", 1.0)
    job, _ = jobs.run("1", container=wanting("installs"), profile=profile)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert job.message == (
        "The requirements were not installed into the image within 1 s. Give it fewer --requirements, or choose "
        "another --image. Nothing was left behind."
    )
    assert not jobs.containers()


def test_installing_takes_no_longer_than_the_job_may_run(jobs: Jobs) -> None:
    job, _ = jobs.run("1", container=wanting("installs"), limits=ResourceLimits(wall_seconds=1.0))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert "were not installed into the image within 1 s. Give it more --timeout, or" in job.message
    assert not jobs.containers()


@pytest.mark.parametrize("what", ENDLESS)
def test_a_job_cancelled_meanwhile_waits_for_no_deadline(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 1000.0)
    job = jobs.submit("1", container=wanting(what))
    slot = {"label": [f"nodetool.owner={jobs.manager.owner.id}"], "status": "running"}
    with jobs.engine.client() as client:
        until(lambda: client.api.containers(filters=slot), "it runs")
    jobs.manager.cancel(job.id)
    assert jobs.end(job)[0].status is JobStatus.CANCELLED
    assert not jobs.containers()

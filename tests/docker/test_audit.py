"""What the engine made is compared with what was asked before anything starts; a difference leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from nodetool_jupyter.containers import Bind, ContainerOptions
from nodetool_jupyter.jobs import Job, JobStatus, Profile, Reason, ResourceLimits
from nodetool_jupyter.runners.docker import built
from nodetool_jupyter.runners.docker.engine import EngineUnavailable
from nodetool_jupyter.runners.docker.runner import DockerRunner
from tests.docker.jobs import Jobs, isolation, jobs_on, kept_environ
from tests.docker.test_standby import waiting
from tests.engine import images
from tests.engine.private import Engine


class Lies:
    """Makes the engine tell of other settings than the container has, and notes what was started."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.host: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.mounts: list[dict[str, Any]] = []
        self.mounted: list[dict[str, Any]] | None = None
        self.warnings: list[str] = []
        self.started: list[str] = []
        inspect, create, start = (
            getattr(docker.APIClient, name) for name in ("inspect_container", "create_container_from_config", "start")
        )

        def lying(client: docker.APIClient, container: str) -> dict[str, Any]:
            found = inspect(client, container)
            found["HostConfig"].update(self.host)
            found["Config"].update(self.config)
            found["Mounts"] = [*(found["Mounts"] if self.mounted is None else self.mounted), *self.mounts]
            return found

        def warning(client: docker.APIClient, *arguments: Any) -> dict[str, Any]:
            made = create(client, *arguments)
            return {**made, "Warnings": [*(made["Warnings"] or ()), *self.warnings]}

        def noting(client: docker.APIClient, container: str) -> None:
            self.started.append(container)
            start(client, container)

        patch.setattr(docker.APIClient, "inspect_container", lying)
        patch.setattr(docker.APIClient, "create_container_from_config", warning)
        patch.setattr(docker.APIClient, "start", noting)


@pytest.fixture
def lies(monkeypatch: pytest.MonkeyPatch) -> Lies:
    return Lies(monkeypatch)


def refused(job: Job, field: str) -> None:
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert f"The engine did not apply {field}=" in job.message
    assert "removed unstarted. [NT-D03]" in job.message


@pytest.mark.parametrize("profile", [Profile.DEFAULT, Profile.UNTRUSTED])
@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("NetworkMode", "bridge"),
        ("CapDrop", None),
        ("CapDrop", ["NET_RAW"]),
        ("CapAdd", ["SYS_ADMIN"]),
        ("SecurityOpt", []),
        ("SecurityOpt", ["no-new-privileges=true", "seccomp=unconfined"]),
        ("Privileged", True),
        ("IpcMode", "host"),
        ("PidMode", "host"),
        ("UTSMode", "host"),
        ("UsernsMode", "host"),
        ("Init", True),
        ("OomScoreAdj", 0),
        ("Binds", ["/:/host"]),
        ("Devices", [{"PathOnHost": "/dev/sda"}]),
        ("VolumesFrom", ["other"]),
        ("GroupAdd", ["docker"]),
        ("PortBindings", {"80/tcp": [{}]}),
        ("Sysctls", {"kernel.shm_rmid_forced": "0"}),
        ("MaskedPaths", []),
        ("ReadonlyPaths", []),
        ("Tmpfs", {}),
        ("Ulimits", []),
        ("LogConfig", {"Type": "json-file", "Config": {}}),
        ("RestartPolicy", {"Name": "always", "MaximumRetryCount": 0}),
        ("AutoRemove", True),
        ("DeviceRequests", [{"Driver": "nvidia", "Count": -1}]),
    ],
)
def test_a_boundary_that_is_not_there_refuses_the_start(
    jobs: Jobs, lies: Lies, profile: Profile, field: str, told: object
) -> None:
    lies.host[field] = told
    job, _ = jobs.run("1", profile=profile)
    refused(job, field)
    assert lies.started == []
    jobs.nothing_is_left()


@pytest.mark.parametrize(
    ("field", "told"), [("CapDrop", None), ("NetworkMode", "bridge"), ("NanoCpus", 0), ("SecurityOpt", [])]
)
def test_what_serves_a_job_is_compared_as_well(jobs: Jobs, lies: Lies, field: str, told: object) -> None:
    runner = jobs.manager.runner("docker")
    assert isinstance(runner, DockerRunner)
    image = runner.images.find(ContainerOptions(image=images.IMAGE))
    assert image is not None
    lies.host[field] = told
    with pytest.raises(EngineUnavailable, match=rf"did not apply {field} to a container that serves a job.*NT-D03"):
        runner.python_of(image)
    with (
        pytest.raises(EngineUnavailable, match=rf"did not apply {field} "),
        built._container(runner.engine, image, runner._labels),
    ):
        pass
    assert lies.started == []
    jobs.nothing_is_left()


def test_a_root_that_can_be_written_to_refuses_untrusted_code(jobs: Jobs, lies: Lies) -> None:
    lies.host["ReadonlyRootfs"] = False
    refused(jobs.run("1", profile=Profile.UNTRUSTED)[0], "ReadonlyRootfs")
    refused(jobs.run("1", container=ContainerOptions(read_only=True))[0], "ReadonlyRootfs")
    assert lies.started == []


@pytest.mark.parametrize(("field", "told"), [("User", ""), ("WorkingDir", "/"), ("StdinOnce", False)])
def test_another_user_or_folder_refuses_the_start(jobs: Jobs, lies: Lies, field: str, told: object) -> None:
    lies.config[field] = told
    refused(jobs.run("1")[0], field)
    assert lies.started == []


def test_a_mount_that_nobody_asked_for_refuses_the_start(jobs: Jobs, lies: Lies) -> None:
    lies.mounts.append({"Type": "bind", "Source": "/", "Destination": "/host", "RW": True})
    refused(jobs.run("1")[0], "Mounts")
    assert lies.started == []


@pytest.mark.parametrize(
    "told",
    [
        {"Source": "/etc"},
        {"Target": "/other"},
        {"BindOptions": {"NonRecursive": False}},
        {"BindOptions": None},
    ],
)
def test_another_folder_or_more_than_was_asked_refuses_the_start(
    jobs: Jobs, lies: Lies, tmp_path: Path, told: dict[str, Any]
) -> None:
    asked = {"Type": "bind", "Source": str(tmp_path), "Target": "/d", "ReadOnly": True}
    there = {**asked, "BindOptions": {"NonRecursive": True}, **told}
    lies.host["Mounts"] = [there]
    lies.mounted = [{"Type": "bind", "Source": there["Source"], "Destination": there["Target"], "RW": False}]
    refused(jobs.run("1", container=ContainerOptions(binds=(Bind(str(tmp_path), "/d", True),)))[0], "Mounts")
    assert lies.started == []


LIMITS = [
    ("Memory", 0, "memory_bytes", ResourceLimits(memory_bytes=256 << 20)),
    ("NanoCpus", 0, "cpus", ResourceLimits(cpus=0.5)),
    ("PidsLimit", None, "pids", ResourceLimits(pids=40)),
    ("ShmSize", 64 << 30, "shm_bytes", ResourceLimits(shm_bytes=8 << 20)),
]


@pytest.mark.parametrize(("field", "told", "name", "limits"), LIMITS)
def test_a_limit_that_was_asked_for_and_is_not_applied_refuses_the_start(
    jobs: Jobs, lies: Lies, field: str, told: object, name: str, limits: ResourceLimits
) -> None:
    lies.host[field] = told
    refused(jobs.run("1", limits=limits)[0], field)
    refused(jobs.run("1", profile=Profile.UNTRUSTED)[0], field)
    assert lies.started == []
    job, events = jobs.run("1")
    assert job.status is JobStatus.COMPLETED
    assert isolation(events).not_held == (name,)
    assert name not in isolation(events).held


def test_a_warning_of_the_engine_refuses_untrusted_code_and_nobody_else(jobs: Jobs, lies: Lies) -> None:
    lies.warnings.append("Your kernel does not support swap limit capabilities.")
    job, _ = jobs.run("1", profile=Profile.UNTRUSTED)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert "swap limit capabilities" in job.message
    assert "NT-D03" in job.message
    assert lies.started == []
    assert jobs.run("1")[0].status is JobStatus.COMPLETED


@pytest.fixture
def kept_jobs(engine: Engine, environ: dict[str, str], tmp_path: Path) -> Iterator[Jobs]:
    """With containers that wait."""
    with jobs_on(engine, kept_environ(environ, tmp_path)) as found:
        yield found


def test_a_waiting_container_that_does_not_take_its_limits_is_removed(kept_jobs: Jobs, lies: Lies) -> None:
    kept_jobs.run("1")
    known = waiting(kept_jobs)
    lies.host["Memory"] = 4 << 30
    job, _ = kept_jobs.run("1", limits=ResourceLimits(memory_bytes=256 << 20))
    refused(job, "Memory")
    left = {container[:12] for container in kept_jobs.containers()}
    assert len(known - left) == 1


def test_a_waiting_container_without_a_limit_is_none_for_who_asks_for_it(kept_jobs: Jobs, lies: Lies) -> None:
    lies.host["PidsLimit"] = 5
    _, events = kept_jobs.run("1")
    assert "pids" in isolation(events).not_held
    waiting(kept_jobs)
    job, _ = kept_jobs.run("1", limits=ResourceLimits(pids=512))
    refused(job, "PidsLimit")

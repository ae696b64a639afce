"""A job whose container waits gets it without a call of the engine, unless what is known may hold no longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker
import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.events import Isolation
from nodetool_jupyter.jobs import Job, ResourceLimits
from nodetool_jupyter.runners.docker import images as known_images
from nodetool_jupyter.runners.docker.engine import Engine as Calls
from nodetool_jupyter.runners.docker.images import Images
from tests.docker.faulty import GUARD_SECONDS, Jobs, jobs_on
from tests.docker.proxy import Proxy
from tests.engine import images
from tests.engine.private import Engine, until

MOVED = "nodetool-test:moved"


@pytest.fixture
def proxy(engine: Engine, tmp_path: Path) -> Iterator[Proxy]:
    made = Proxy(engine.url, tmp_path)
    yield made
    made.close()


@pytest.fixture
def jobs(proxy: Proxy, environ: dict[str, str], tmp_path: Path) -> Iterator[Jobs]:
    with jobs_on(proxy.url, environ, standby=tmp_path) as found:
        yield found


def one_waits(jobs: Jobs) -> str:
    """The container that waits, once it does; what is known of its image was asked long ago."""
    runner: Any = jobs.manager.runner("docker")
    until(lambda: runner._pool._waiting and not runner._pool._coming, "a container waits")
    runner.images._known = {name: (1.0, image) for name, (_, image) in runner.images._known.items()}
    runner.images._sure_from = 0.0
    found: str = runner._pool._waiting[0].box.id
    return found


def container(jobs: Jobs, job: Job) -> str:
    [found] = [one for one in jobs.manager.events(job.id) if isinstance(one, Isolation)]
    return str(found.details["container"])


def test_a_job_gets_a_container_that_waits_without_a_call_of_the_engine(jobs: Jobs, proxy: Proxy) -> None:
    assert jobs.outcome(jobs.submit("1")) == "completed"
    known = one_waits(jobs)
    every = proxy.hold("")
    job = jobs.submit("print('here')")
    until(lambda: jobs.says(job) == "here\n", "it prints, while the engine answers nothing but that it is there")
    assert known.startswith(container(jobs, job))
    every.release()
    assert jobs.outcome(job) == "completed"


def test_a_job_with_other_limits_waits_for_them_and_for_the_audit(jobs: Jobs, proxy: Proxy) -> None:
    assert jobs.outcome(jobs.submit("1")) == "completed"
    known = one_waits(jobs)
    audit = proxy.hold(rf"containers/{known}/json")
    job = jobs.submit("print('here')", limits=ResourceLimits(memory_bytes=300 << 20))
    assert audit.reached.wait(GUARD_SECONDS)
    assert jobs.manager.get(job.id).status.value == "starting"
    audit.release()
    assert jobs.outcome(job) == "completed"
    assert known.startswith(container(jobs, job))


def test_a_name_that_means_another_image_is_noticed(
    jobs: Jobs, docker_client: docker.DockerClient, engine: Engine
) -> None:
    docker_client.api.tag(images.IMAGE, *MOVED.split(":"))
    try:
        assert jobs.outcome(jobs.submit("1", image=MOVED)) == "completed"
        one_waits(jobs)
        docker_client.api.tag("nodetool-test:user", *MOVED.split(":"))
        now = docker_client.api.inspect_image(MOVED)["Id"]
        known = cast(Any, jobs.manager.runner("docker")).images
        until(lambda: known.find(ContainerOptions(image=MOVED)).id == now, "the engine has told of it")
        job = jobs.submit("1", image=MOVED)
        assert jobs.outcome(job) == "completed"
        [found] = [one for one in jobs.manager.events(job.id) if isinstance(one, Isolation)]
        assert found.details["image_id"] == now
    finally:
        docker_client.api.remove_image(MOVED)


class Shelf:
    """An engine with one image, which counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def asked_of_it(self, call: object) -> dict[str, str]:
        self.asked += 1
        return {"Id": f"sha256:{self.asked}"}


def test_an_image_is_known_until_the_engine_tells_of_a_change_and_else_for_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(known_images, "time", SimpleNamespace(monotonic=lambda: now))
    shelf = Shelf()
    found = Images(cast(Calls, shelf))

    def asked_after(seconds: float) -> int:
        nonlocal now
        now += seconds
        found.find(ContainerOptions())
        return shelf.asked

    assert [asked_after(seconds) for seconds in (0, 4, 2)] == [1, 1, 2]
    found.watched()
    assert [asked_after(seconds) for seconds in (4, 2)] == [2, 3], "what was told before may hold no longer"
    assert [asked_after(seconds) for seconds in (100, 1000)] == [3, 3]
    found.changed()
    assert [asked_after(seconds) for seconds in (0, 4, 2)] == [4, 4, 5], "what is told at once may be from before"
    assert asked_after(1000) == 5
    found.unwatched()
    assert asked_after(1) == 6

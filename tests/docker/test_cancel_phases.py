"""A job that is cancelled ends `cancelled`, wherever it is on its way, and nothing of it is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nodetool_jupyter.jobs import ResourceLimits
from tests.docker.faulty import SLEEPS, Jobs, containers, eventually_empty, jobs_on
from tests.docker.proxy import Proxy
from tests.engine.private import Engine, until
from tests.engine.registry import silent_registry


@pytest.fixture
def proxy(engine: Engine, tmp_path: Path) -> Iterator[Proxy]:
    found = Proxy(engine.url, tmp_path)
    yield found
    found.close()


@pytest.fixture
def jobs(proxy: Proxy, environ: dict[str, str]) -> Iterator[Jobs]:
    with jobs_on(proxy.url, environ) as found:
        yield found


PHASES = {
    "creating": r"containers/create",
    "auditing": r"containers/\w+/json",
    "attaching": r"containers/\w+/attach",
    "starting": r"containers/\w+/start",
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_job_is_cancelled_while_it_starts(jobs: Jobs, proxy: Proxy, engine: Engine, phase: str) -> None:
    held = proxy.hold(PHASES[phase])
    job = jobs.submit(SLEEPS)
    assert held.reached.wait(60)
    assert jobs.manager.cancel(job.id)
    until(lambda: jobs.manager.get(job.id).status.value == "cancelling", "it is being cancelled")
    held.release()
    assert jobs.outcome(job) == "cancelled"
    assert not containers(engine)
    assert not jobs.manager.cancel(job.id)


def test_a_job_is_cancelled_while_its_worker_gets_ready(jobs: Jobs, proxy: Proxy, engine: Engine) -> None:
    held = proxy.hold(r"containers/\w+/start")
    job = jobs.submit(SLEEPS)
    assert held.reached.wait(60)
    held.release()
    until(lambda: containers(engine) and "running" in containers(engine)[0], "it runs")
    jobs.manager.cancel(job.id)
    assert jobs.outcome(job) == "cancelled"
    eventually_empty(engine)


def test_a_job_is_cancelled_while_its_image_is_asked_for(jobs: Jobs, proxy: Proxy) -> None:
    held = proxy.hold(r"images/create")
    job = jobs.submit("1", image="127.0.0.1:9/none:1")
    assert held.reached.wait(60)
    assert jobs.manager.cancel(job.id)
    assert jobs.outcome(job) == "cancelled"


def test_a_job_is_cancelled_while_a_registry_keeps_it_waiting(engine: Engine, environ: dict[str, str]) -> None:
    with silent_registry() as address, jobs_on(engine.url, environ) as jobs:
        job = jobs.submit("1", image=f"{address}/none:1")
        until(lambda: jobs.manager.get(job.id).status.value == "starting", "it starts")
        assert jobs.manager.cancel(job.id)
        assert jobs.outcome(job) == "cancelled"


def test_a_job_is_cancelled_while_it_waits_in_line(engine: Engine, environ: dict[str, str]) -> None:
    with jobs_on(engine.url, {**environ, "DOCKER_MAX_JOBS": "1"}) as jobs:
        first, second = jobs.up(), jobs.submit("1")
        assert jobs.manager.cancel(second.id)
        assert jobs.outcome(second) == "cancelled"
        assert jobs.manager.get(second.id).started_at is None
        jobs.manager.cancel(first.id)
        assert jobs.outcome(first) == "cancelled"


def test_a_job_is_cancelled_once_however_often_it_is_asked(jobs: Jobs, proxy: Proxy) -> None:
    job = jobs.up()
    with ThreadPoolExecutor(50) as pool:
        asked = list(pool.map(lambda _: jobs.manager.cancel(job.id, grace_seconds=0.1), range(50)))
    assert asked[0]
    assert jobs.outcome(job) == "cancelled"
    updates = [event for event in jobs.manager.events(job.id) if getattr(event, "status", "") == "cancelled"]
    assert len(updates) == 1
    assert not jobs.manager.cancel(job.id)


def test_a_result_that_is_in_counts_though_its_container_is_cancelled_while_it_is_removed(
    jobs: Jobs, proxy: Proxy, engine: Engine
) -> None:
    held = proxy.hold(r"containers/[0-9a-f]{64}\?")
    job = jobs.submit("'a result'")
    assert held.reached.wait(60)
    jobs.manager.cancel(job.id)
    held.release()
    assert jobs.outcome(job) == "completed"
    eventually_empty(engine)


@pytest.mark.timeout(300)
def test_fifty_jobs_are_cancelled_at_once(engine: Engine, environ: dict[str, str]) -> None:
    with jobs_on(engine.url, environ) as jobs:
        started = [jobs.submit(SLEEPS) for _ in range(50)]
        until(lambda: containers(engine), "the first are being made")
        for job in started:
            jobs.manager.cancel(job.id, grace_seconds=0.1)
        assert {jobs.outcome(job) for job in started} == {"cancelled"}
        eventually_empty(engine)


def test_a_time_limit_begins_with_the_work_not_with_the_start(jobs: Jobs, proxy: Proxy) -> None:
    held = proxy.hold(r"containers/create")
    job = jobs.submit("1 + 1", limits=ResourceLimits(wall_seconds=30))
    assert held.reached.wait(60)
    held.release()
    assert jobs.outcome(job) == "completed"


def test_a_manager_that_closes_takes_back_what_is_being_made(
    proxy: Proxy, engine: Engine, environ: dict[str, str], tmp_path: Path
) -> None:
    with jobs_on(proxy.url, environ, standby=tmp_path) as jobs:
        assert jobs.outcome(jobs.submit("1")) == "completed"
        pool = jobs.manager.runner("docker")._pool  # type: ignore[attr-defined]
        until(lambda: pool._waiting, "a container waits for the next")
        held = proxy.hold(r"containers/\w+/start")
        jobs.up()  # takes it; another is made
        assert held.reached.wait(60)
        threading.Timer(0.2, held.release).start()
    assert not containers(engine)


def test_a_closed_manager_leaves_no_network(engine: Engine, environ: dict[str, str]) -> None:
    from nodetool_jupyter.containers import ContainerOptions
    from tests.engine import images

    with jobs_on(engine.url, environ) as jobs:
        options = ContainerOptions(image=images.IMAGE, network="bridge")
        assert jobs.outcome(jobs.submit("1", container=options)) == "completed"
    with engine.client() as client:
        assert not client.api.networks(filters={"label": "nodetool.owner"})


def test_an_image_that_declares_a_volume_leaves_none(engine: Engine, environ: dict[str, str]) -> None:
    with jobs_on(engine.url, environ) as jobs:
        assert jobs.outcome(jobs.submit("1", image="nodetool-test:volume")) == "completed"
        job = jobs.up(image="nodetool-test:volume")
        jobs.manager.cancel(job.id, grace_seconds=0)
        assert jobs.outcome(job) == "cancelled"
    with engine.client() as client:
        assert not client.api.volumes()["Volumes"]
    eventually_empty(engine)

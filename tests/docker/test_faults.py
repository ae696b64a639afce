"""The engine stops, dies, freezes and loses answers; containers are ended from outside. Nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from nodetool_jupyter.events import Isolation
from nodetool_jupyter.jobs import Profile, ResourceLimits
from nodetool_jupyter.runners.docker import engine as engine_calls
from nodetool_jupyter.runners.docker import ladder, runner
from nodetool_jupyter.runners.docker.engine import EngineUnavailable
from tests.docker.faulty import SLEEPS, Jobs, containers, eventually_empty, held, jobs_on
from tests.docker.proxy import Proxy
from tests.engine import images, private
from tests.engine.private import Engine, until
from tests.engine.shared import ask_for_engine

RETURNS_WHEN_TERMINATED = """
import signal, time
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
print('up', flush=True)
while not ended:
    time.sleep(0.01)
'a result'
"""
DIES_WHEN_TERMINATED = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_DFL)\n" + SLEEPS
RETURNS_ALONE = "import time\nprint('up', flush=True)\ntime.sleep(1)\n'a result'"


@pytest.fixture(scope="module")
def faulty_engine() -> Iterator[Engine]:
    """An engine for this file alone, which its tests stop, kill and freeze."""
    ask_for_engine()
    with private.running() as engine:
        with engine.client() as client:
            images.load(client, variants=False)
        yield engine


@pytest.fixture
def broken(faulty_engine: Engine) -> Iterator[Engine]:
    """The engine of this file; whatever the test did to it, in the end nothing of ours may be in it."""
    yield faulty_engine
    faulty_engine.start()
    faulty_engine.thaw()
    eventually_empty(faulty_engine)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, an engine that answers nothing is given up sooner, so that no test needs half a minute for it.

    Not before: one that is only slow must not be taken for it.
    """

    def give_up_soon() -> None:
        monkeypatch.setattr(engine_calls, "CHECK_SECONDS", 1.0)
        for module in (ladder, runner):
            monkeypatch.setattr(module, "UNKILLABLE_SECONDS", 2.0)

    return give_up_soon


@pytest.fixture
def doomed(broken: Engine, environ: dict[str, str]) -> Iterator[Jobs]:
    with jobs_on(broken.url, environ) as jobs:
        yield jobs


@pytest.fixture
def jobs(engine: Engine, environ: dict[str, str]) -> Iterator[Jobs]:
    with jobs_on(engine.url, environ) as found:
        yield found


def container(jobs: Jobs, job: object, client: docker.DockerClient) -> docker.models.containers.Container:
    [found] = [one for one in jobs.manager.events(job.id) if isinstance(one, Isolation)]  # type: ignore[attr-defined]
    return client.containers.get(found.details["container"])


@pytest.mark.parametrize("code", [DIES_WHEN_TERMINATED, RETURNS_WHEN_TERMINATED], ids=["dies", "returns"])
@pytest.mark.parametrize("back", [True, False], ids=["restarted", "stopped"])
def test_a_job_whose_engine_stops_is_lost_whatever_it_does_then(
    doomed: Jobs, broken: Engine, code: str, back: bool
) -> None:
    job = doomed.up(code)
    broken.stop()
    if back:
        broken.start()
    assert doomed.outcome(job) == "failed lost"
    assert "rerun" in doomed.end(job).message
    if back:
        eventually_empty(broken)
        assert doomed.outcome(doomed.submit("1 + 1")) == "completed"


@pytest.mark.parametrize("code", [SLEEPS, RETURNS_ALONE], ids=["goes on", "returns"])
def test_a_job_whose_engine_is_killed_is_lost_even_if_it_ended_well(doomed: Jobs, broken: Engine, code: str) -> None:
    job = doomed.up(code)
    broken.kill()
    assert doomed.outcome(job) == "failed lost"
    broken.start()
    eventually_empty(broken)


def test_a_container_that_waited_in_an_engine_that_was_restarted_gets_no_job(
    broken: Engine, environ: dict[str, str], tmp_path: Path
) -> None:
    with jobs_on(broken.url, environ, standby=tmp_path) as jobs:
        assert jobs.outcome(jobs.submit("1")) == "completed"
        pool = jobs.manager.runner("docker")._pool  # type: ignore[attr-defined]
        until(lambda: pool._waiting, "a container waits")  # one that still starts takes no SIGTERM
        broken.restart()
        eventually_empty(broken)
        assert jobs.outcome(jobs.submit("2")) == "completed"


def test_a_frozen_engine_refuses_new_jobs_and_stops_nobody_else(
    doomed: Jobs, broken: Engine, impatient: Callable[[], None]
) -> None:
    job = doomed.up()
    broken.freeze()
    impatient()
    docker_runner = doomed.manager.runner("docker")
    until(lambda: not docker_runner.holds(), "nothing was heard from it for a moment")
    before = len(doomed.manager.find())
    for _ in range(4):
        with pytest.raises(EngineUnavailable, match=r"did not answer.* choose another --runner"):
            doomed.submit("1")
    assert len(doomed.manager.find()) == before
    assert docker_runner.engine.silent  # type: ignore[attr-defined]
    assert doomed.outcome(doomed.submit("1", runner="subprocess")) == "completed"
    assert doomed.manager.cancel(job.id, grace_seconds=0.1)
    assert doomed.outcome(job) == "failed unkillable"
    broken.thaw()
    eventually_empty(broken)


def test_a_job_whose_container_waits_in_a_frozen_engine_is_refused(
    broken: Engine, environ: dict[str, str], tmp_path: Path, impatient: Callable[[], None]
) -> None:
    with jobs_on(broken.url, environ, standby=tmp_path) as jobs:
        assert jobs.outcome(jobs.submit("1")) == "completed"
        docker_runner: Any = jobs.manager.runner("docker")
        until(lambda: docker_runner._pool._waiting, "a container waits")
        docker_runner.images._sure_from = 0.0
        impatient()
        broken.freeze()
        docker_runner.engine._heard = 0.0  # as after a moment
        with (
            pytest.raises(EngineUnavailable, match="did not answer within"),
            docker_runner.engine.facts_meanwhile(),  # as of another job that is submitted at the time
            pytest.raises(EngineUnavailable, match=r"did not answer within.* choose another --runner"),
        ):
            jobs.submit("print('begun')")
        assert len(jobs.manager.find()) == 1
        broken.thaw()
        until(lambda: jobs.outcome(jobs.submit("2")) == "completed", "it goes on")


def test_a_start_that_is_cancelled_in_a_frozen_engine_says_so_and_is_undone_after_the_thaw(
    broken: Engine, environ: dict[str, str], tmp_path: Path, impatient: Callable[[], None]
) -> None:
    proxy = Proxy(broken.url, tmp_path)
    try:
        with jobs_on(proxy.url, environ) as jobs:
            assert jobs.outcome(jobs.submit("1")) == "completed"
            creating = proxy.hold("containers/create")
            job = jobs.submit("1")
            assert creating.reached.wait(60)
            broken.freeze()
            impatient()
            creating.release()
            assert jobs.manager.cancel(job.id)
            assert jobs.outcome(job) == "failed unkillable"
            assert "removed when the engine answers" in jobs.end(job).message
            broken.thaw()
            eventually_empty(broken)
    finally:
        proxy.close()


@pytest.mark.parametrize("fault", [Engine.kill, Engine.freeze], ids=["dead", "frozen"])
def test_a_manager_that_closes_without_its_engine_has_its_containers_removed_later(
    broken: Engine, environ: dict[str, str], fault: Callable[[Engine], None], impatient: Callable[[], None]
) -> None:
    with jobs_on(broken.url, environ) as jobs:
        jobs.up()
        fault(broken)
        impatient()
    broken.start()
    broken.thaw()
    eventually_empty(broken)


@pytest.fixture
def proxy(engine: Engine, tmp_path: Path) -> Iterator[Proxy]:
    """Stands before the engine and can lose its answers."""
    made = Proxy(engine.url, tmp_path)
    yield made
    made.close()


def test_a_container_whose_answer_was_lost_is_taken_over(engine: Engine, proxy: Proxy, environ: dict[str, str]) -> None:
    with jobs_on(proxy.url, environ) as jobs:
        lost = proxy.lose_answer("containers/create")
        job = jobs.up()
        assert lost.reached.is_set()
        assert len(containers(engine)) == 1
        jobs.manager.cancel(job.id)
        assert jobs.outcome(job) == "cancelled"


def test_a_container_whose_answer_was_lost_runs_no_untrusted_code(
    engine: Engine, proxy: Proxy, environ: dict[str, str]
) -> None:
    with jobs_on(proxy.url, environ) as jobs:
        lost = proxy.lose_answer("containers/create")
        job = jobs.run("1", profile=Profile.UNTRUSTED)
        assert lost.reached.is_set()
        assert job.reason == "start_failed"
        assert "its answer was lost, and with it what it warned of" in job.message
        eventually_empty(engine)


@pytest.mark.parametrize(
    "end",
    [
        lambda found: found.kill(),
        lambda found: found.kill("SIGTERM"),
        lambda found: found.remove(force=True),
        lambda found: found.stop(timeout=1),
    ],
    ids=["kill", "terminate", "remove", "stop"],
)
def test_a_job_that_is_ended_from_outside_was_killed(
    jobs: Jobs, docker_client: docker.DockerClient, end: Callable[[object], object]
) -> None:
    job = jobs.up(DIES_WHEN_TERMINATED)
    end(container(jobs, job, docker_client))
    assert jobs.outcome(job) == "failed killed"
    assert "from outside" in jobs.end(job).message


def test_a_paused_job_can_be_cancelled(jobs: Jobs, docker_client: docker.DockerClient) -> None:
    job = jobs.up()
    container(jobs, job, docker_client).pause()
    jobs.manager.cancel(job.id, grace_seconds=0.5)
    assert jobs.outcome(job) == "cancelled"


def test_an_exit_code_of_a_killed_process_is_the_jobs_own_error(jobs: Jobs) -> None:
    ended = jobs.run("import sys; sys.exit(137)")
    assert (ended.status.value, ended.reason) == ("failed", "error")
    assert "137" in ended.message


def test_out_of_memory_is_told_from_a_kill(jobs: Jobs) -> None:
    limits = ResourceLimits(memory_bytes=64 << 20)
    ended = jobs.run("x = bytearray(500 << 20)\nfor n in range(0, len(x), 4096): x[n] = 1", limits=limits)
    assert ended.reason == "out_of_memory", ended.message


def test_a_job_survives_a_child_that_ran_out_of_memory_and_says_so(jobs: Jobs) -> None:
    code = """
import subprocess, sys
eats = "open('/proc/self/oom_score_adj', 'w').write('1000')\\nx = b'x' * (500 << 20)"
subprocess.run([sys.executable, "-c", eats]).returncode
"""
    ended = jobs.run(code, limits=ResourceLimits(memory_bytes=96 << 20))
    assert ended.status.value == "completed", ended.message
    assert "lack of memory" in ended.message


def test_nothing_of_this_process_is_kept_for_an_engine(engine: Engine, environ: dict[str, str]) -> None:
    before = held(engine.url)
    with jobs_on(engine.url, environ) as jobs:
        for _ in range(3):
            assert jobs.outcome(jobs.submit("1")) == "completed"
    assert not held(engine.url, before)

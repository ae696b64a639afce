"""Jobs in containers, beside `docker run` and the bare SDK on the same engine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from unittest.mock import patch

import docker
import docker.errors

from nodetool_jupyter import JobExecutionManager, JobStatus
from nodetool_jupyter.containers import default_image
from nodetool_jupyter.events import AnyEvent, Display, Stream
from nodetool_jupyter.jobs import ResourceLimits
from nodetool_jupyter.runners.docker.runner import DockerRunner
from tests.benchmarks import ours
from tests.benchmarks.measure import Row, median_seconds
from tests.engine import images, private
from tests.engine.private import until
from tests.engine.shared import missing

_GUARD_SECONDS = 60.0
_EVENTS = 50_000


@contextmanager
def engine() -> Iterator[str]:
    """`DOCKER_HOST` is an engine with the default image; yields "", or why there is none."""
    with ExitStack() as stack:
        if not os.environ.get("DOCKER_HOST"):
            if why := missing():
                yield f"No engine: set DOCKER_HOST, or {why}."
                return
            started = stack.enter_context(private.running())
            with started.client() as client:
                images.load(client, variants=False)
            stack.enter_context(patch.dict(os.environ, started.environ))
        yield _unfit()


def _unfit() -> str:
    try:
        client = docker.from_env(timeout=10)
    except docker.errors.DockerException:
        return f"No engine answers at {os.environ['DOCKER_HOST']}."
    try:
        client.images.get(default_image())
    except docker.errors.ImageNotFound:
        return f"The engine has no image {default_image()}: docker pull {default_image()}."
    finally:
        client.close()
    return "" if shutil.which("docker") else "There is no docker command to compare with."


def rows(folder: Path) -> list[Row]:
    """All of them; the peers are measured between ours."""
    run, line = "`docker run --rm`, no network", "submit → first output"
    with ours.manager(folder) as running:
        ours.job(running, "1 + 1", "docker")
        cold = median_seconds(lambda: _job(running, fresh=True), runs=7)
        plain = median_seconds(_docker_run, runs=7)
        output, shown, ended = _standby(running, limits=lambda: ResourceLimits())
        sizes = count(300 << 20, 1 << 20)
        updated, _, _ = _standby(running, limits=lambda: ResourceLimits(memory_bytes=next(sizes)))
        at_once = running.settings["docker_max_jobs"]
        rate = ours.jobs_per_second(running, "docker", count=6 * at_once)
        bare = _sdk_per_second(at_once, 6 * at_once)
        events = ours.events_per_second(running, "docker", count=_EVENTS)
        lines = _lines_per_second(_EVENTS)
    return [
        Row("docker, cold: submit → end", cold, run, plain),
        Row(f"docker, standby: {line}", output, run, plain),
        Row(f"docker, standby, limits by `update`: {line}", updated, run, plain),
        Row("docker, standby: submit → result shown", shown, run, plain),
        Row("docker, standby: submit → end recorded", ended, run, plain),
        Row(f"docker jobs, {at_once} at once", rate, "SDK: create, start, wait, remove", bare, rate=True),
        Row("events from a container to a subscriber, durable", events, "JSON lines, `docker run`", lines, rate=True),
    ]


def _job(running: JobExecutionManager, **fields: object) -> list[tuple[float, AnyEvent]]:
    """Run a job; its events, each with the seconds after the request."""
    seen: list[tuple[float, AnyEvent]] = []
    start = time.perf_counter()

    def hear(events: list[AnyEvent]) -> None:
        now = time.perf_counter() - start
        seen.extend((now, event) for event in events)

    submitted = running.submit(*ours.work("print('begun')\n1 + 1", "docker", **fields))
    unsubscribe = running.subscribe(submitted.id, hear)
    ended = running.wait(submitted.id, timeout=_GUARD_SECONDS)
    unsubscribe()
    assert ended.status is JobStatus.COMPLETED, ended.message
    return seen


def _standby(running: JobExecutionManager, *, limits: Callable[[], ResourceLimits]) -> tuple[float, float, float]:
    """Medians to the first output, the result and the end, with a container that waits each time."""
    runner = running.runner("docker")
    assert isinstance(runner, DockerRunner)
    pool = runner._pool
    assert pool is not None
    _job(running, limits=limits())
    found = []
    for _ in range(11):
        until(lambda: pool._waiting and not pool._coming, "a container waits")
        seen = _job(running, limits=limits())
        output = next(at for at, event in seen if isinstance(event, Stream))
        shown = next(at for at, event in seen if isinstance(event, Display) and event.result)
        found.append((output, shown, seen[-1][0]))
    output, shown, ended = (statistics.median(times) for times in zip(*found, strict=True))
    return output, shown, ended


def _docker_run() -> None:
    command = ["docker", "run", "--rm", "--network", "none", default_image(), "python3", "-c", "print(1 + 1)"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _sdk_per_second(at_once: int, jobs: int) -> float:
    """Containers per second, with as little as can be done: nothing is read, audited or kept."""
    local = threading.local()

    def one(_: int) -> None:
        if not hasattr(local, "client"):
            local.client = docker.from_env(timeout=_GUARD_SECONDS)
        api = local.client.api
        config = api.create_host_config(network_mode="none")
        command = ["python3", "-c", "print(1 + 1)"]
        container = api.create_container(default_image(), command, host_config=config)["Id"]
        api.start(container)
        assert api.wait(container)["StatusCode"] == 0
        api.remove_container(container)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(at_once)))
        start = time.perf_counter()
        list(pool.map(one, range(jobs)))
        return jobs / (time.perf_counter() - start)


def _lines_per_second(lines: int) -> float:
    """Lines of JSON through the engine, decoded and dropped."""
    child = (
        f"import json, sys\nfor i in range({lines}): sys.stdout.write(json.dumps({{'type': 'log', 'n': i}}) + '\\n')"
    )
    command = ["docker", "run", "--rm", "--network", "none", "--log-driver", "none", default_image(), "python3", "-c"]
    start = time.perf_counter()
    with subprocess.Popen([*command, child], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = sum(1 for line in process.stdout if json.loads(line))
    assert seen == lines
    return lines / (time.perf_counter() - start)

"""A plain Python script that ends, where everything is closed late: after the threads of all executors are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from tests.conftest import HANG_GUARD_SECONDS
from tests.engine import images
from tests.engine.private import Engine

JOB_RUNS = """
import nodetool_jupyter, time
job = nodetool_jupyter.run("import time\\nprint('up', flush=True)\\ntime.sleep(600)", runner=RUNNER)
while "up" not in job.logs():
    time.sleep(0.01)
"""
CONTAINER_WAITS = """
import nodetool_jupyter, time
assert nodetool_jupyter.run("1 + 1", runner=RUNNER).result() == 2
from nodetool_jupyter.notebook.session import current
pool = current().manager.runner("docker")._pool
while not pool._waiting:
    time.sleep(0.01)
"""
TELLS = """
from nodetool_jupyter.notebook.session import current
for job in current().manager.find():
    print(job.status.value, job.message)
"""


class Scripts:
    """Runs scripts that have one store."""

    def __init__(self, folder: Path) -> None:
        self._environ = {name: value for name, value in os.environ.items() if name != "ENV"}
        self._environ |= {"JUPYTER_DATA_DIR": str(folder), "NODETOOL_DOCKER_IMAGE": images.IMAGE}

    def run(self, code: str, runner: str = "docker") -> str:
        """Everything that it says."""
        command = [sys.executable, "-c", f"RUNNER = {runner!r}\n{code}"]
        ran = subprocess.run(
            command, env=self._environ, capture_output=True, text=True, timeout=HANG_GUARD_SECONDS, check=True
        )
        return ran.stdout + ran.stderr


@pytest.fixture
def scripts(engine: Engine, tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


@pytest.mark.parametrize("runner", ["docker", "subprocess"])
def test_a_job_is_cancelled_that_runs_when_its_script_ends(
    scripts: Scripts, docker_client: docker.DockerClient, runner: str
) -> None:
    assert scripts.run(JOB_RUNS, runner) == ""
    assert docker_client.api.containers(all=True) == []
    assert scripts.run(TELLS) == "cancelled Cancelled: the kernel was shut down.\n"


def test_a_container_is_removed_that_waits_when_its_script_ends(
    scripts: Scripts, docker_client: docker.DockerClient
) -> None:
    assert scripts.run(CONTAINER_WAITS) == ""
    assert docker_client.api.containers(all=True) == []


def test_a_job_and_a_container_that_waits(scripts: Scripts, docker_client: docker.DockerClient) -> None:
    assert scripts.run(CONTAINER_WAITS + JOB_RUNS) == ""
    assert docker_client.api.containers(all=True) == []
    assert scripts.run(TELLS).splitlines()[0] == "cancelled Cancelled: the kernel was shut down."


def test_a_job_in_a_container_starts_in_a_thread_that_outlives_the_main_one(scripts: Scripts) -> None:
    outlives = """
import nodetool_jupyter, threading
def work():
    threading.main_thread().join()
    print(nodetool_jupyter.run("1 + 1", runner=RUNNER).result())
threading.Thread(target=work).start()
"""
    assert scripts.run(outlives) == "2\n"

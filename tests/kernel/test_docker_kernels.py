"""What becomes of containers when their kernel ends, in whatever way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import count

import docker
import psutil
import pytest

from tests.engine import images
from tests.engine.private import Engine
from tests.kernel.conftest import Kernel, gone, until

SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(600)"
START = f"--runner docker --image {images.IMAGE}"


@pytest.fixture(autouse=True)
def on_engine(engine: Engine) -> Engine:
    """Kernels find the engine of the tests in their environment."""
    return engine


def begin(kernel: Kernel, options: str = "") -> str:
    started = kernel.start(f"%%nodetool {START} {options}\n{SLEEPS}")
    assert "up" in kernel.follow(started, until_text="up").text
    return started


def containers(client: docker.DockerClient) -> list[str]:
    return [one["Names"][0] for one in client.api.containers(all=True)]


def networks(client: docker.DockerClient) -> list[str]:
    return [one["Name"] for one in client.api.networks(filters={"label": "nodetool.owner"})]


def supervisors(kernel: Kernel) -> list[psutil.Process]:
    children = psutil.Process(kernel.pid).children()
    return [child for child in children if any("supervisor.py" in word for word in child.cmdline())]


def nothing_left(client: docker.DockerClient) -> None:
    until(lambda: not containers(client) and not networks(client))


def test_a_killed_kernel_takes_its_containers_and_its_network_along(
    kernel: Kernel, docker_client: docker.DockerClient
) -> None:
    begin(kernel, "--network bridge")
    until(lambda: len(containers(docker_client)) == 2)  # one of them waits for the next job
    assert networks(docker_client)
    os.kill(kernel.pid, signal.SIGKILL)
    nothing_left(docker_client)


@pytest.fixture
def mute(docker_client: docker.DockerClient) -> Iterator[str]:
    """An image whose Python never says anything."""
    name = "mute:1"
    images.load_with_python3(docker_client, name, "exec sleep 600")
    yield name
    docker_client.images.remove(name)


@pytest.mark.parametrize("asks", ["%%nodetool --runner docker --image {}\n1", "%nodetool doctor --image {}"])
def test_a_killed_kernel_takes_along_the_container_in_which_an_image_is_asked(
    kernel: Kernel, docker_client: docker.DockerClient, mute: str, asks: str
) -> None:
    kernel.start(asks.format(mute))
    until(lambda: docker_client.api.containers())
    os.kill(kernel.pid, signal.SIGKILL)
    nothing_left(docker_client)


def test_a_killed_kernel_takes_nothing_of_another_along(
    kernel: Kernel, start_kernel: Callable[[], Kernel], docker_client: docker.DockerClient
) -> None:
    foreign = docker_client.containers.create(images.IMAGE, ["sleep", "600"], name="foreign")
    another = start_kernel()
    begin(another, "--fresh")
    theirs = set(containers(docker_client))
    begin(kernel, "--fresh")
    os.kill(kernel.pid, signal.SIGKILL)
    until(lambda: set(containers(docker_client)) == theirs)
    another.interrupt()
    until(lambda: containers(docker_client) == ["/foreign"])
    foreign.remove()


def test_a_kernel_that_dies_with_its_supervisor_is_cleaned_up_after_by_the_next(
    kernel: Kernel, start_kernel: Callable[[], Kernel], docker_client: docker.DockerClient
) -> None:
    begin(kernel, "--network bridge --fresh")
    found = supervisors(kernel)
    assert found
    os.kill(kernel.pid, signal.SIGSTOP)  # so that neither has the time to clean up after the other
    for process in found:
        process.kill()
    os.kill(kernel.pid, signal.SIGKILL)
    until(lambda: gone(kernel.pid))
    until(lambda: not docker_client.api.containers())  # nobody listens any more, so the job has ended
    assert containers(docker_client)
    another = start_kernel()
    another.value("%nodetool jobs")
    nothing_left(docker_client)
    assert "lost" in another.value("%nodetool jobs")


def test_a_job_is_cancelled_and_its_container_removed_before_a_kernel_ends_that_is_asked_to(
    kernel: Kernel, start_kernel: Callable[[], Kernel], docker_client: docker.DockerClient
) -> None:
    kernel.value("import os; os.environ['NODETOOL_NONINTERACTIVE'] = '0'")
    kernel.run(f"%%nodetool {START} --background --job lasting\n{SLEEPS}")
    kernel.value("while 'up' not in lasting.logs(): pass")
    until(lambda: len(docker_client.api.containers()) == 2)  # one of them waits for the next job
    kernel.client.shutdown()
    until(lambda: gone(kernel.pid))
    assert containers(docker_client) == []
    asks = "from nodetool_jupyter.notebook.session import current; print(current().manager.find()[0].message)"
    assert start_kernel().value(asks) == "Cancelled: the kernel was shut down."


@pytest.mark.parametrize("how", ["restart", "restart now", "shutdown", "shutdown now"])
def test_a_kernel_that_is_ended_leaves_no_container(
    kernel: Kernel, docker_client: docker.DockerClient, how: str
) -> None:
    begin(kernel, "--network bridge")
    if how.startswith("restart"):
        kernel.restart(now=how.endswith("now"))
    else:
        kernel.manager.shutdown_kernel(now=how.endswith("now"))
    nothing_left(docker_client)


def test_pruning_in_a_kernel_names_what_the_dead_left_in_the_engine(
    kernel: Kernel, docker_client: docker.DockerClient
) -> None:
    record = (
        "import json, msgspec\n"
        "from nodetool_jupyter.notebook.session import current\n"
        "from nodetool_jupyter.stores.owners import owner_labels\n"
        "owner = msgspec.structs.replace(current().manager.owner, id='dead', start_ticks=1)\n"
        "print(json.dumps(owner_labels(owner)))"
    )
    labels, number = json.loads(kernel.value(record)), count()

    def pruned() -> bool:
        name = f"left-{next(number)}"  # one that is gone has its name for a moment longer
        docker_client.containers.create(images.IMAGE, ["sleep", "600"], name=name, labels=labels)
        said = kernel.value("%nodetool prune")
        until(lambda: not containers(docker_client))
        return f"removed container {name}" in said

    until(pruned)  # the first may be taken by the sweep with which the manager starts

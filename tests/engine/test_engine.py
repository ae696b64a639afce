"""The engine of the tests is private, obeys, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil
import pytest

from tests.engine import images, leaks, private
from tests.engine.shared import ask_for_engine


@pytest.fixture
def bare_engine() -> Iterator[private.Engine]:
    """An engine without images."""
    ask_for_engine()
    with private.running() as engine:
        yield engine


def python(client: docker.DockerClient, code: str, *, image: str = images.IMAGE) -> str:
    container = client.containers.create(image, ["python3", "-c", code], network_mode="none")
    container.start()
    container.wait()
    output: bytes = container.logs()
    container.remove(v=True)
    return output.decode().strip()


def sleeping(client: docker.DockerClient) -> str:
    """The id of a container that runs until it is removed."""
    return str(
        client.containers.run(images.IMAGE, ["sleep", "infinity"], network_mode="none", detach=True, init=True).id
    )


@pytest.mark.parametrize("image", [images.IMAGE, images.DEFAULT])
def test_a_container_runs_the_python_that_the_image_is_named_for(docker_client, image):
    code = "import asyncio, ctypes, json, logging, sys, zipfile; print('%d.%d' % sys.version_info[:2])"
    assert python(docker_client, code, image=image) == images.PYTHON


def test_variants_declare_a_volume_a_user_and_a_folder(docker_client):
    code = "import os; print(os.path.ismount('/declared'), os.getuid() != 0, os.getcwd())"
    assert [python(docker_client, code, image=image) for image in images.VARIANTS] == [
        "True False /",
        "False False /",
        "False True /",
        "False False /srv/work",
    ]


def test_a_container_can_have_a_network(docker_client):
    output = docker_client.containers.run(images.IMAGE, ["ls", "/sys/class/net"], remove=True)
    assert "eth0" in output.decode().split()


def test_the_engine_of_the_run_is_the_test_s_docker_host(engine):
    assert os.environ["DOCKER_HOST"] == engine.url
    client = docker.from_env()
    assert client.images.get(images.IMAGE)
    client.close()


def test_without_asking_for_an_engine_there_is_none():
    assert not Path(os.environ["DOCKER_HOST"].removeprefix("unix://")).exists()


def test_it_keeps_away_from_the_firewall_and_from_other_engines(bare_engine):
    arguments = psutil.Process(bare_engine.pid).cmdline()
    assert "--iptables=false" in arguments
    assert arguments[arguments.index("--bridge") + 1] == bare_engine.bridge
    assert arguments[arguments.index("--containerd") + 1].startswith(str(bare_engine.folder))


def test_a_frozen_engine_takes_connections_and_answers_after_the_thaw(bare_engine):
    bare_engine.freeze()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(bare_engine.url.removeprefix("unix://"))
    assert not bare_engine.answers()
    bare_engine.thaw()
    private.until(bare_engine.answers, "the thawed engine answers")


def test_containers_outlive_a_killed_engine_and_are_known_to_the_next(spare_engine):
    with spare_engine.client() as client:
        container = sleeping(client)
        host_pid = client.api.inspect_container(container)["State"]["Pid"]
    spare_engine.kill()
    assert not spare_engine.answers()
    assert psutil.pid_exists(host_pid)
    spare_engine.start()
    with spare_engine.client() as client:
        assert client.containers.get(container).status == "exited"
        client.containers.get(container).remove()


def test_a_restarted_engine_has_stopped_its_containers(spare_engine):
    with spare_engine.client() as client:
        container = sleeping(client)
    before = spare_engine.pid
    spare_engine.restart()
    assert spare_engine.pid != before
    with spare_engine.client() as client:
        assert client.containers.get(container).status == "exited"


def test_nothing_of_an_engine_is_left_even_when_a_test_left_it_frozen():
    ask_for_engine()
    interfaces = set(os.listdir("/sys/class/net"))
    with private.running() as engine:
        with engine.client() as client:
            images.load(client, variants=False)
            network = client.networks.create("own", options={"com.docker.network.bridge.name": "ntj-own"})
            command = ["sleep", "infinity"]
            client.containers.run(images.IMAGE, command, network=network.name, detach=True, stop_signal="SIGKILL")
        assert "ntj-own" in os.listdir("/sys/class/net")
        assert all(engine.leftovers().values())
        engine.freeze()
    assert not any(engine.leftovers().values())
    assert "ntj-own" not in set(os.listdir("/sys/class/net")) - interfaces


def test_what_a_test_leaves_in_an_engine_is_named(engine, docker_client):
    before = leaks.Before(engine, leaks.contents(engine), Path(tempfile.gettempdir()))
    assert before.left() == {}
    container = docker_client.containers.get(sleeping(docker_client))
    container.rename("left-behind")
    container.commit("left", "image")
    docker_client.volumes.create("left-volume")
    docker_client.networks.create("left-network", internal=True)
    with pytest.raises(AssertionError) as failed:
        before.check(settling_seconds=0)
    for what in ("containers: /left-behind", "processes: ", "images: left:image", "volumes: left-volume", "networks: "):
        assert f"  {what}" in str(failed.value)
    docker_client.networks.prune()
    docker_client.volumes.get("left-volume").remove()
    docker_client.images.remove("left:image")
    container.remove(force=True)
    before.check()


def test_what_a_test_leaves_in_its_temporary_folder_is_named(engine):
    before = leaks.Before(engine, leaks.contents(engine), Path(tempfile.gettempdir()))
    folder = Path(tempfile.gettempdir()) / "nodetool-0" / "owner" / "job"
    folder.mkdir(parents=True)
    with pytest.raises(AssertionError, match=r"job folders: .*/owner/job"):
        before.check(settling_seconds=0)
    folder.rmdir()
    before.check()


LEFT = """
import json, sys, time
from tests.engine import images, private
with private.running() as engine:
    with engine.client() as client:
        images.load(client, variants=False)
        client.containers.run(images.IMAGE, ["sleep", "1000"], network_mode="none", detach=True)
    print(json.dumps([str(engine.folder), engine.bridge, engine.pid]), flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def other_temporary_folder(monkeypatch):
    """Where no run but those of this test has its engine."""
    ask_for_engine()
    with tempfile.TemporaryDirectory(prefix="ntj-s-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.mark.usefixtures("other_temporary_folder")
@pytest.mark.parametrize("alive", [True, False], ids=["its engine lives", "its engine is dead"])
def test_the_engine_of_a_run_that_was_killed_is_removed_by_the_next(alive):
    with subprocess.Popen([sys.executable, "-c", LEFT], stdout=subprocess.PIPE, text=True) as run:
        folder, bridge, pid = json.loads(run.stdout.readline())
        left = private.Engine(Path(folder), bridge=bridge)
        try:
            private.sweep_dead_runs()
            assert left.answers(), "its run lives"
        finally:
            run.kill()
    if not alive:
        os.kill(pid, signal.SIGKILL)
    inside = [process.pid for process in psutil.process_iter() if left._contains(process.pid)]
    assert inside
    private.sweep_dead_runs()
    assert not any(left.leftovers().values())
    private.until(lambda: not any(left._contains(pid) for pid in inside), "its containers are gone")

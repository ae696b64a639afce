"""What dead kernels left in an engine is removed, and nothing else ever is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import msgspec
import pytest

from nodetool_jupyter import places
from nodetool_jupyter.housekeeping import prune, sweep_runners
from nodetool_jupyter.runners.base import Swept
from nodetool_jupyter.runners.docker.leases import take
from nodetool_jupyter.runners.docker.runner import DockerRunner
from nodetool_jupyter.stores.base import Owner
from nodetool_jupyter.stores.memory import MemoryStore
from nodetool_jupyter.stores.owners import owner_labels, this_process
from tests.docker.faulty import jobs_on
from tests.engine import images
from tests.engine.private import Engine, until

USER = "ann"


def dead(user: str = USER, **changes: object) -> Owner:
    """An owner whose process has ended."""
    return msgspec.structs.replace(this_process(user), start_ticks=1, **changes)


class Place:
    """Things in an engine that tests make by hand."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client
        self._made: list[object] = []

    def container(self, name: str, labels: dict[str, str], image: str = images.IMAGE) -> str:
        self._made.append(self.client.containers.create(image, ["sleep", "600"], name=name, labels=labels, init=True))
        return name

    def network(self, name: str, labels: dict[str, str]) -> str:
        self._made.append(self.client.networks.create(name, labels=labels, internal=True))
        return name

    def volume(self, name: str, labels: dict[str, str]) -> str:
        self._made.append(self.client.volumes.create(name, labels=labels))
        return name

    def names(self) -> set[str]:
        """Everything of these kinds that there is."""
        found = {one["Names"][0].lstrip("/") for one in self.client.api.containers(all=True)}
        found |= {one.name for one in self.client.networks.list()} - {"bridge", "host", "none"}
        return found | {one.name for one in self.client.volumes.list()}

    def remove(self) -> None:
        for one in reversed(self._made):
            options = {"force": True, "v": True} if isinstance(one, docker.models.containers.Container) else {}
            try:
                one.remove(**options)  # type: ignore[attr-defined]
            except docker.errors.NotFound:
                continue


@pytest.fixture
def place(docker_client: docker.DockerClient) -> Iterator[Place]:
    found = Place(docker_client)
    yield found
    found.remove()


@pytest.fixture
def runner(engine: Engine) -> Iterator[DockerRunner]:
    found = DockerRunner(engine.environ, labels=owner_labels(this_process(USER)), standby=False)
    yield found
    found.engine.close()


def test_what_a_dead_kernel_left_is_removed_and_named(place: Place, runner: DockerRunner) -> None:
    labels = owner_labels(dead())
    place.container("left-running", labels, image="nodetool-test:volume")
    place.client.containers.get("left-running").start()
    place.network("left-network", labels)
    place.volume("left-volume", labels)
    swept = sweep_runners([runner], USER)
    assert set(swept.removed) == {"container left-running", "network left-network", "volume left-volume"}
    assert swept.left == ()
    assert place.names() == set()


def test_nothing_of_anybody_else_is_touched(place: Place, runner: DockerRunner) -> None:
    kept = {
        place.container("of-a-live-kernel", owner_labels(this_process(USER))),
        place.container("of-another-user", owner_labels(dead("bob"))),
        place.container("of-another-machine", owner_labels(dead(host="elsewhere"))),
        place.container("of-nobody", {}),
        place.container("without-a-record", {"nodetool.owner": "x"}),
        place.container("with-a-record-nobody-can-read", {"nodetool.owner": "x", "nodetool.record": "{"}),
        place.network("network-of-nobody", {}),
        place.volume("volume-of-a-live-kernel", owner_labels(this_process(USER))),
    }
    assert sweep_runners([runner], USER) == Swept()
    assert place.names() == kept


def test_what_is_in_use_stays_and_is_named(place: Place, runner: DockerRunner) -> None:
    network = place.network("used-network", owner_labels(dead()))
    place.container("foreign", {})
    place.client.networks.get(network).connect("foreign")
    place.client.containers.get("foreign").start()
    swept = sweep_runners([runner], USER)
    assert swept.removed == ()
    assert len(swept.left) == 1
    assert swept.left[0].startswith("network used-network: ")


def test_images_that_were_built_for_jobs_go_when_they_are_old_and_unused(place: Place, runner: DockerRunner) -> None:
    place.container("source", {})
    source = place.client.containers.get("source")
    built = {"Labels": {"nodetool.built": "0123"}}
    for name in ("built-unused", "built-used"):
        source.commit(name, "1", conf=built)
    source.commit("foreign-image", "1")
    try:
        place.container("user", {}, image="built-used:1")
        assert runner.sweep(lambda labels: False) == Swept()
        assert runner.sweep(lambda labels: False, built_before=time.time() - 3600) == Swept()
        swept = runner.sweep(lambda labels: False, built_before=time.time() + 3600)
        assert swept.removed == ("image built-unused:1",)
        said = "it is used by user, which no kernel made. Remove that first."
        assert swept.left == (f"image built-used:1: {said}",)
    finally:
        place.remove()
        for name in ("built-used:1", "foreign-image:1"):
            place.client.images.remove(name)


@pytest.fixture
def built(place: Place) -> Iterator[str]:
    """An image as those that are built for jobs."""
    place.container("source", {})
    place.client.containers.get("source").commit("built-mine", "1", conf={"Labels": {"nodetool.built": "0123"}})
    yield "built-mine:1"
    with suppress(docker.errors.ImageNotFound):
        place.client.images.remove("built-mine:1", force=True)


def test_an_image_whose_containers_only_wait_goes_with_them_and_one_of_a_job_does_not(
    built: str, engine: Engine, environ: dict[str, str], tmp_path: Path
) -> None:
    with jobs_on(engine.url, environ, standby=tmp_path) as jobs:
        runner = jobs.manager.runner("docker")
        assert isinstance(runner, DockerRunner)

        def pruned() -> Swept:
            return runner.sweep(lambda labels: False, built_before=time.time() + 3600)

        up = jobs.up(image=built)
        kept = "a job of this kernel uses it. Prune again when that has ended."
        assert pruned() == Swept((), (f"image {built}: {kept}",))
        jobs.manager.cancel(up.id)
        jobs.run("1", image=built)
        until(lambda: runner._pool is not None and runner._pool.some_wait, "a container waits")
        assert pruned() == Swept((f"image {built}",), ())


def test_an_image_that_another_kernel_uses_says_so(built: str, place: Place, runner: DockerRunner) -> None:
    place.container("theirs", owner_labels(this_process("bob")), image=built)
    [left] = runner.sweep(lambda labels: False, built_before=time.time() + 3600).left
    assert (
        left == f"image {built}: a container of another kernel uses it, or waits with it. Prune again when that "
        "kernel has ended."
    )


def test_pruning_names_what_it_removed_in_the_engine(place: Place, runner: DockerRunner) -> None:
    store = MemoryStore()
    store.open()
    place.container("left", owner_labels(dead()))
    assert prune(store, 3600, user=USER, sweepers=[runner]).runners == ("container left",)
    store.close()


def test_a_manager_removes_what_the_dead_left_when_it_starts(
    place: Place, engine: Engine, environ: dict[str, str]
) -> None:
    from nodetool_jupyter.config import Settings

    place.container("left", owner_labels(dead(Settings(environ).user)))
    with jobs_on(engine.url, environ, checked=False):
        until(lambda: not place.names(), "it is removed")


def test_an_engine_that_is_not_there_costs_nothing_and_is_not_mentioned(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from nodetool_jupyter.runners.docker.runner import DockerRunner\n"
        "runner = DockerRunner({'DOCKER_HOST': sys.argv[1]}, labels={'nodetool.owner': 'x'})\n"
        "assert runner.sweep(lambda labels: True) == ((), ())\n"
        "assert 'docker' not in sys.modules and 'requests' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, f"unix://{tmp_path}/none.sock"], check=True)


def test_the_lease_of_a_build_that_was_killed_goes_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = [descriptor for name in ("image-left", "gpu-0", "image-held") if (descriptor := take(name)) is not None]
    for descriptor in held[:2]:
        os.close(descriptor)
    runner = DockerRunner({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}, labels={"nodetool.owner": "x"})
    assert sweep_runners([runner], USER) == Swept()
    assert {path.name for path in places.lease_folder().iterdir()} == {"gpu-0", "image-held"}
    os.close(held[2])


def test_an_engine_that_does_not_answer_is_named_where_it_was_asked_for(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        found = DockerRunner({"DOCKER_HOST": f"unix://{path}"}, labels=owner_labels(this_process(USER)))
        swept = found.sweep(lambda labels: True)
        found.engine.close()
    assert swept.removed == ()
    assert "connection refused" in swept.left[0]

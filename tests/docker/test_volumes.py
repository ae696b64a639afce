"""An image that declares volumes: where nothing may be written to, they are in memory and sized."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from nodetool_jupyter.containers import Bind, ContainerOptions
from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.jobs import CodeWork, JobRequest, JobStatus, Profile, Reason, ResourceLimits
from nodetool_jupyter.runners.docker.images import volumes_of
from nodetool_jupyter.runners.docker.runner import DockerRunner
from nodetool_jupyter.runners.docker.spec import container_spec, differences
from tests.docker.jobs import Jobs, isolation
from tests.engine import images
from tests.engine.private import Engine
from tests.workflows.seeing import text

NAME = "nodetool-test:volumes"
FILL = """import errno
written = 0
for n in range(%d):
    try:
        with open(f'/declared/{n}', 'wb', buffering=0) as file:
            for _ in range(20):
                written += file.write(bytes(1 << 20))
    except OSError as error:
        print(errno.errorcode[error.errno])
        break
print(written >> 20)
mounts = [line.split()[1:3] for line in open('/proc/mounts')]
print([mount for mount in mounts if mount[0] in ('/declared', '/srv/more')])
"""
SHARED = "nodetool-test:shared"
FILL_SHARED = """import errno
try:
    with open('/dev/shm/big', 'wb', buffering=0) as file:
        for written in range(1, 100):
            file.write(bytes(1 << 20))
except OSError as error:
    print(errno.errorcode[error.errno], written - 1)
"""
VOLUME = {"Type": "volume", "Destination": "/a", "RW": True}
IN_MEMORY = "[['/declared', 'tmpfs'], ['/srv/more', 'tmpfs']]"


@pytest.fixture(scope="module", autouse=True)
def image(run_engine: Engine) -> Iterator[str]:
    """Declares two volumes, one of them written as few would."""
    with run_engine.client() as client:
        made = client.api.create_container(images.IMAGE, ["true"])
        changes = [*images.BASE, 'VOLUME ["/declared", "/srv/./more/"]']
        client.api.commit(made, *NAME.split(":"), changes=changes)
        client.api.remove_container(made)
        yield NAME
        client.images.remove(NAME)


@pytest.mark.parametrize(
    ("profile", "read_only", "files", "told"),
    [(Profile.UNTRUSTED, False, 4, "ENOSPC\n64\n"), (Profile.DEFAULT, True, 30, "ENOSPC\n512\n")],
)
def test_a_volume_of_the_image_is_no_place_without_a_bound(
    jobs: Jobs, profile: Profile, *, read_only: bool, files: int, told: str
) -> None:
    options = ContainerOptions(image=NAME, read_only=read_only)
    job, events = jobs.run(FILL % files, container=options, profile=profile)
    assert job.status is JobStatus.COMPLETED, job.message
    assert text(events) == f"{told}{IN_MEMORY}\n"


def test_what_asks_the_image_has_none_either(jobs: Jobs) -> None:
    runner = jobs.manager.runner("docker")
    assert isinstance(runner, DockerRunner)
    image = runner.images.find(ContainerOptions(image=NAME))
    assert image is not None
    assert image.volumes == ("/declared", "/srv/more")
    assert runner.python_of(image).startswith(f"{images.PYTHON}.")


def test_volumes_that_came_with_a_moved_tag_refuse_the_start(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodetool_jupyter.runners.docker.images.volumes_of", lambda found: ())
    job, _ = jobs.run("1", container=ContainerOptions(image=NAME), profile=Profile.UNTRUSTED)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert "The engine did not apply Mounts=[] (it reports ['/declared', '/srv/more'])" in job.message
    jobs.nothing_is_left()


@pytest.mark.parametrize(
    ("profile", "read_only"), [(Profile.DEFAULT, False), (Profile.DEFAULT, True), (Profile.UNTRUSTED, False)]
)
@pytest.mark.parametrize("user", ["", "1000"])
def test_shared_memory_has_its_size_whatever_the_image_declares(
    jobs: Jobs, profile: Profile, user: str, *, read_only: bool
) -> None:
    options = ContainerOptions(image=SHARED, read_only=read_only, user=user)
    limits = ResourceLimits(shm_bytes=8 << 20)
    job, events = jobs.run(FILL_SHARED, container=options, profile=profile, limits=limits)
    assert text(events) == "ENOSPC 8\n", job.message
    assert isolation(events).held["shm_bytes"] == "sized /dev/shm"


def test_a_volume_over_shared_memory_that_came_with_a_moved_tag_refuses_the_start(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodetool_jupyter.runners.docker.images.volumes_of", lambda found: ())
    job, _ = jobs.run("1", container=ContainerOptions(image=SHARED))
    assert "The engine did not apply Mounts=[] (it reports ['/dev/shm'])" in job.message


def asked(volumes: tuple[str, ...], *, read_only: bool = True, **options: Any) -> dict[str, Any]:
    container = ContainerOptions(read_only=read_only, **options)
    request = JobRequest(work=CodeWork("1"), runner="docker", container=container)
    spec = container_spec(request, {}, image="sha256:1", image_user="", network="none", devices=(), volumes=volumes)
    return spec.config


def test_what_the_person_put_there_stays() -> None:
    volumes = ("/a", "/b", "/job", "/tmp")
    config = asked(volumes, tmpfs={"/a": "size=1m"}, binds=(Bind("/srv", "/b", True),))
    tmpfs = config["HostConfig"]["Tmpfs"]
    assert set(tmpfs) == {"/a", "/job", "/tmp"}
    assert tmpfs["/a"] == "size=1m"
    assert {name: how for name, how in tmpfs.items() if name != "/a"} == asked(())["HostConfig"]["Tmpfs"]


def test_where_the_root_can_be_written_to_a_volume_stays_one() -> None:
    assert asked(("/a",), read_only=False) == asked((), read_only=False)
    found = {"HostConfig": asked((), read_only=False)["HostConfig"], "Config": {}, "Mounts": [VOLUME]}
    assert "Mounts" not in {field for field, *_ in differences(asked((), read_only=False), found)}


@pytest.mark.parametrize("kind", ["volume", "npipe", "cluster"])
def test_a_volume_that_nobody_asked_for_is_a_difference_where_the_root_is_read_only(kind: str) -> None:
    config = asked(())
    found = {"HostConfig": config["HostConfig"], "Config": {}, "Mounts": [{**VOLUME, "Type": kind}]}
    assert ("Mounts", [], ["/a"]) in differences(config, found)


@pytest.mark.parametrize(
    ("declared", "means"),
    [("/a", "/a"), ("a/", "/a"), ("//a", "/a"), ("/a/../b/.", "/b"), ("/../c", "/c")],
)
def test_a_volume_is_known_by_the_path_where_the_engine_mounts_it(declared: str, means: str) -> None:
    assert volumes_of({"Config": {"Volumes": {declared: {}}}}) == (means,)


def test_a_volume_without_an_absolute_path_is_refused_by_name(jobs: Jobs, docker_client: docker.DockerClient) -> None:
    name = "nodetool-test:relative"
    made = docker_client.api.create_container(images.IMAGE, ["true"])
    docker_client.api.commit(made, *name.split(":"), changes=[*images.BASE, 'VOLUME ["rel/x"]'])
    docker_client.api.remove_container(made)
    try:
        runner = jobs.manager.runner("docker")
        request = JobRequest(work=CodeWork("1"), runner="docker", container=ContainerOptions(image=name))
        for refuses in (runner.check, runner.speaks_other, runner.foresee):
            with pytest.raises(
                InvalidRequest, match=f"'{name}' declares the volume 'rel/x'.*Build it with VOLUME /rel/x"
            ):
                refuses(request)
    finally:
        docker_client.images.remove(name)


@pytest.mark.parametrize(
    ("link", "target", "path"), [("data", "/dev/shm", "/data"), ("srv/data", "../dev", "/srv/data/shm")]
)
def test_a_link_puts_no_volume_over_shared_memory(
    jobs: Jobs, run_engine: Engine, link: str, target: str, path: str
) -> None:
    name = "nodetool-test:linked"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo(link)
        info.type, info.linkname = tarfile.SYMTYPE, target
        archive.addfile(info)
    with run_engine.client() as client:
        made = client.api.create_container(images.IMAGE, ["true"])
        client.api.put_archive(made, "/", packed.getvalue())
        client.api.commit(made, *name.split(":"), changes=[*images.BASE, f'VOLUME ["{path}", "/srv/more"]'])
        client.api.remove_container(made)
        job, _ = jobs.run(FILL_SHARED, container=ContainerOptions(image=name), profile=Profile.UNTRUSTED)
        jobs.nothing_is_left()
        client.images.remove(name)
    told = f"Image {name!r} declares the volume {path!r}, which a link in it puts over /dev/shm. "
    assert job.message.startswith(told), job.message


@pytest.mark.parametrize("path", ["/", "/dev", "/proc", "/proc/sys", "/x/../proc/y"])
def test_a_volume_over_what_is_the_systems_own_is_refused_by_name(jobs: Jobs, engine: Engine, path: str) -> None:
    with engine.client() as client:
        made = client.api.create_container(images.IMAGE, ["true"])
        client.api.commit(made, "nodetool-test", "over-system", changes=[*images.BASE, f'VOLUME ["{path}"]'])
        client.api.remove_container(made)
        try:
            with pytest.raises(InvalidRequest, match=f"declares the volume '{path}', where a container has what is"):
                jobs.submit("1", container=ContainerOptions(image="nodetool-test:over-system"))
        finally:
            client.images.remove("nodetool-test:over-system")


@pytest.mark.parametrize(
    "options",
    [
        ContainerOptions(tmpfs={"/usr": "size=1m"}),
        ContainerOptions(binds=(Bind("/opt", "/usr"),)),
        ContainerOptions(image="nodetool-test:over-usr", read_only=True),
    ],
)
def test_what_lies_over_the_images_python_is_named(jobs: Jobs, run_engine: Engine, options: ContainerOptions) -> None:
    with run_engine.client() as client:
        made = client.api.create_container(images.IMAGE, ["true"])
        client.api.commit(made, "nodetool-test", "over-usr", changes=[*images.BASE, 'VOLUME ["/usr"]'])
        client.api.remove_container(made)
        job, _ = jobs.run("1", container=options)
        jobs.nothing_is_left()
        client.images.remove("nodetool-test:over-usr")
    assert job.message.startswith("The container finds no python3: the image has none, or what lies over /usr ")

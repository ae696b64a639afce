"""`run` and reruns with containers: options and settings as on a cell's line, and the image that the job had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from nodetool_jupyter.config import SETTINGS
from nodetool_jupyter.containers import Bind, ContainerOptions
from nodetool_jupyter.errors import InvalidRequest, JobFailed, LimitNotHeld, ProfileRefused, Refused
from nodetool_jupyter.events import Notification
from nodetool_jupyter.jobs import JobStatus, Profile
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.notebook import session as sessions
from nodetool_jupyter.notebook.handle import JobHandle, Limits, run
from nodetool_jupyter.notebook.session import Session
from nodetool_jupyter.notebook.verbs import run as verb
from nodetool_jupyter.runners.docker.images import ImageMissing
from nodetool_jupyter.runners.docker.spec import container_spec
from nodetool_jupyter.testing import ScriptedRunner
from tests.docker.jobs import isolation
from tests.engine import images
from tests.engine.private import GUARD_SECONDS, Engine, until
from tests.workflows.seeing import of

FIXED = "nodetool-test:fixed"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """The session of plain Python."""
    monkeypatch.setenv("ENV", "test")
    found = Session()
    before = sessions.replace_current(found)
    yield found
    found.close()
    sessions.replace_current(before)


@pytest.fixture
def running(session: Session, engine: Engine) -> Session:
    """With an engine of containers, and a manager that has begun and so closes its runners."""
    assert session.manager.store
    return session


@pytest.fixture
def scripted(session: Session) -> Session:
    """With runners that run nothing."""
    runners = [ScriptedRunner(name="docker"), ScriptedRunner(name="subprocess")]
    session._manager = JobExecutionManager(session.settings(), runners=runners)
    return session


@pytest.fixture
def image(docker_client: docker.DockerClient) -> Iterator[str]:
    """A tag of the tests' image that can be moved."""
    docker_client.api.tag(images.IMAGE, *FIXED.split(":"))
    yield FIXED
    docker_client.api.remove_image(FIXED)


def container(**options: Any) -> ContainerOptions:
    return ended(run("1", runner="docker", **options)).job.request.container


def ended(handle: JobHandle) -> JobHandle:
    handle.wait(GUARD_SECONDS)
    return handle


def test_run_takes_a_containers_options_as_the_line_does(scripted: Session, tmp_path: Path) -> None:
    listed = tmp_path / "wanted.txt"
    listed.write_text("numpy>=2  # the new one\n\n# nothing else\n")
    found = container(
        image="python:3.12-slim",
        pull="always",
        network="bridge",
        user=1000,
        gpus=2,
        gpus_shared=True,
        volumes=["./data:/data:ro"],
        tmpfs="/scratch:size=64m,mode=700",
        read_only=True,
        workdir="/work",
        collect=["*.png", "*.csv"],
        requirements=listed,
    )
    assert (found.image, found.pull, found.network, found.user) == ("python:3.12-slim", "always", "bridge", "1000")
    assert (found.gpus, found.gpus_shared, found.read_only, found.workdir) == ("2", True, True, "/work")
    assert found.binds == (Bind("./data", "/data", True),)
    assert list(found.tmpfs) == ["/scratch"]
    assert (found.collect, found.requirements) == (("*.png", "*.csv"), ("numpy>=2",))
    assert container(requirements="numpy pandas==2").requirements == ("numpy", "pandas==2")
    assert container(requirements=["numpy >= 2", "pandas"]).requirements == ("numpy >= 2", "pandas")
    assert container(gpus="device=0,2").gpus == "device=0,2"


def test_settings_of_containers_apply_to_run_and_what_is_given_holds_over_them(
    scripted: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "NODETOOL_DOCKER_IMAGE": "python:3.13-slim",
        "DOCKER_NETWORK": "bridge",
        "DOCKER_GPU_DEVICES": "0,1",
        "DOCKER_PULL_POLICY": "always",
        "DOCKER_MEM_LIMIT": "1g",
        "DOCKER_SHM_SIZE": "256m",
    }.items():
        monkeypatch.setenv(name, value)
    job = ended(run("1", runner="docker", network="none", limits=Limits(memory="2g"))).job
    found = job.request.container
    assert (found.image, found.network, found.gpus, found.pull) == ("python:3.13-slim", "none", "device=0,1", "always")
    assert job.request.limits == Limits(memory="2g", shm_size="256m")
    untrusted = container(profile="untrusted")
    assert (untrusted.network, untrusted.gpus, untrusted.pull) == ("none", "", "never")
    elsewhere = ended(run("1", runner="subprocess")).job.request
    assert (elsewhere.container, elsewhere.limits) == (ContainerOptions(), Limits())


@pytest.mark.parametrize(
    ("setting", "value", "options", "told"),
    [
        ("DOCKER_USER", "0", {"profile": "untrusted"}, "--user 0 does not go with --profile untrusted"),
        ("DOCKER_GPU_DEVICES", "7", {}, "--gpus can't be held"),
        ("DOCKER_PIDS_LIMIT", "2", {}, "--pids-limit 2 is fewer"),
        ("DOCKER_MEM_LIMIT", "8m", {}, "--memory 8 MiB is too little"),
        ("DOCKER_PULL_POLICY", "never", {"image": "nowhere/none:1"}, "Image 'nowhere/none:1' is not on this machine"),
    ],
)
def test_a_setting_that_is_refused_is_told_by_where_it_stands(
    running: Session, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, options: Any, told: str
) -> None:
    monkeypatch.setenv(setting, value)
    with pytest.raises(Refused) as caught:
        run("1", runner="docker", **options)
    assert str(caught.value).startswith(f"Environment variable {setting}: {told}")
    name = next(one.name for one in SETTINGS if setting in one.variables)
    running.choose(name, value)
    with pytest.raises(Refused) as caught:
        run("1", runner="docker", **options)
    assert str(caught.value).startswith(f"%nodetool config {name}: {told}")


def test_a_setting_that_fails_the_start_is_told_by_where_it_stands(
    running: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_NETWORK", "nosuch")
    with pytest.raises(JobFailed, match=r"^Environment variable DOCKER_NETWORK: --network nosuch: the engine has no"):
        run("1", runner="docker").result(GUARD_SECONDS)
    with pytest.raises(JobFailed, match=r"^--network absent: the engine has no"):
        run("1", runner="docker", network="absent").result(GUARD_SECONDS)


def test_what_the_line_says_is_told_by_its_option_whatever_is_set(
    running: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_USER", "1000")
    with pytest.raises(ProfileRefused, match=r"^--user 0 does not go with"):
        run("1", runner="docker", user=0, profile="untrusted")


@pytest.mark.parametrize(
    ("setting", "text", "field", "told"),
    [
        ("DOCKER_SHM_SIZE", "256m", "ShmSize", 256 << 20),
        (
            "DOCKER_GPU_DEVICES",
            "0,1",
            "DeviceRequests",
            [{"Driver": "nvidia", "Count": 0, "DeviceIDs": ["0", "1"], "Capabilities": [["gpu"]]}],
        ),
    ],
)
def test_a_setting_reaches_what_the_engine_is_told(
    scripted: Session, monkeypatch: pytest.MonkeyPatch, setting: str, text: str, field: str, told: object
) -> None:
    monkeypatch.setenv(setting, text)
    request = ended(run("1", runner="docker")).job.request
    spec = container_spec(request, {}, image="sha256:1", image_user="", network="none", devices=())
    assert spec.host[field] == told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pull": "sometimes"}, "--pull 'sometimes' is not one of"),
        ({"network": "host"}, "--network 'host' is refused"),
        ({"image": ""}, "--image '' is no image's name"),
        ({"read_only": "yes"}, "read_only='yes' can't be read"),
        ({"gpus": True}, "gpus=True can't be read"),
        ({"volumes": [3.5]}, r"volumes=\[3.5\] can't be read"),
        ({"requirements": "-e ."}, "'-e' is an option of pip"),
        ({"requirements": "no-such-file.txt"}, "there is no file 'no-such-file.txt'"),
        ({"requirements": ["git+https://x/y"]}, "is not a package's name with versions"),
        ({"privileged": True}, "run\\(\\) has no option 'privileged'"),
    ],
)
def test_an_option_that_can_not_be_read_starts_nothing(scripted: Session, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        run("1", runner="docker", **options)
    assert scripted.manager.find() == []


def test_options_of_containers_are_refused_elsewhere(scripted: Session) -> None:
    with pytest.raises(InvalidRequest, match="Option --image is for containers, and the job runs subprocess"):
        run("1", runner="subprocess", image="python:3.12")
    with pytest.raises(InvalidRequest, match="Option --requirements is for containers"):
        run("1", runner="subprocess", requirements="numpy")
    with pytest.raises(InvalidRequest, match="Option --gpus is for containers"):
        run("1", runner="subprocess", gpus="none")
    assert ended(run("1", runner="subprocess", gpus="1")).job.request.container.gpus == "1"


def test_a_rerun_elsewhere_leaves_the_container_behind(scripted: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_MEM_LIMIT", "1g")
    job = ended(run("1", runner="docker", network="bridge", limits=Limits(cpus=2, timeout="5m")))
    assert job.job.request.limits == Limits(memory="1g", cpus=2, timeout="5m")
    moved = ended(job.rerun(runner="subprocess")).job.request
    assert (moved.container, moved.limits) == (ContainerOptions(), Limits(cpus=2, timeout="5m"))
    assert ended(job.rerun(runner="subprocess", memory="1g")).job.request.limits.memory_bytes == 1 << 30
    with pytest.raises(InvalidRequest, match="Option --image is for containers"):
        job.rerun(runner="subprocess", image="python:3.12")


def test_a_rerun_into_a_container_takes_its_settings(scripted: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_MEM_LIMIT", "1g")
    monkeypatch.setenv("DOCKER_NETWORK", "bridge")
    job = ended(run("1", runner="subprocess"))
    verb(scripted, ["rerun", job.id, "-r", "docker", "--user", "7", "--no-raise"])
    moved = scripted.manager.resolve("-1").request
    assert (moved.container.network, moved.container.user) == ("bridge", "7")
    assert moved.limits == Limits(memory="1g")
    again = ended(JobHandle(scripted, scripted.manager.resolve("-1")).rerun(network="none")).job.request
    assert (again.container.network, again.container.user) == ("none", "7")


def test_a_rerun_takes_no_setting_and_none_that_cannot_be_read_keeps_it_from_starting(
    scripted: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run("1", runner="docker", user=1000)
    monkeypatch.setenv("DOCKER_USER", "me@example.com")
    verb(scripted, ["rerun", job.id, "--shm-size", "32m", "--no-raise"])
    again = scripted.manager.resolve("-1").request
    assert (again.container.user, again.limits.shm_bytes) == ("1000", 32 << 20)
    assert ended(job.rerun(shm_size="64m")).job.request.limits.shm_bytes == 64 << 20


def test_a_rerun_in_no_container_refuses_its_options(scripted: Session) -> None:
    job = run("1", runner="subprocess")
    for again in (lambda: job.rerun(image="python:3"), lambda: verb(scripted, ["rerun", job.id, "--image", "a:1"])):
        with pytest.raises(InvalidRequest, match="Option --image is for containers"):
            again()


def test_a_rerun_in_another_profile_fetches_images_as_that_one_does(scripted: Session) -> None:
    first = ended(run("1", runner="docker")).job

    def pull(job_id: str, words: str) -> str:
        verb(scripted, ["rerun", job_id, "--no-raise", *words.split()])
        return scripted.manager.resolve("-1").request.container.pull

    assert (first.request.container.pull, pull(first.id, "--profile untrusted")) == ("missing", "never")
    assert pull("-1", "--profile default") == "missing"
    assert pull(first.id, "--profile untrusted --pull missing") == "missing"


def test_a_rerun_on_the_line_takes_the_options_of_the_jobs_own_runner(scripted: Session) -> None:
    job = ended(run("1", runner="docker"))
    verb(scripted, ["rerun", job.id, "--image", "python:3.12-slim", "--no-raise"])
    assert scripted.manager.resolve("-1").request.container.image == "python:3.12-slim"
    with pytest.raises(InvalidRequest, match="Option --image is for containers, and the job runs subprocess"):
        verb(scripted, ["rerun", job.id, "-r", "subprocess", "--image", "python:3.12-slim"])


def test_doctor_wants_to_know_which_image(scripted: Session) -> None:
    for words in (["--image"], ["--image="], ["--image", ""]):
        with pytest.raises(InvalidRequest, match="doctor --image wants an image"):
            verb(scripted, ["doctor", *words])


def test_a_rerun_has_the_image_that_the_job_had_and_says_when_its_name_means_another(
    engine: Engine, session: Session, image: str, docker_client: docker.DockerClient
) -> None:
    job = ended(run("1", runner="docker", image=image))
    had = isolation(session.manager.events(job.id)).details["image_id"]
    docker_client.api.tag("nodetool-test:user", *image.split(":"))
    again = ended(job.rerun())
    events = session.manager.events(again.id)
    assert (again.status, isolation(events).details["image_id"]) == (JobStatus.COMPLETED, had)
    [note] = of(events, Notification)
    assert note.content.startswith(f"Image {image!r} now means ")
    assert f"--image {image} takes the new one." in note.content
    third = ended(again.rerun())
    assert not of(session.manager.events(third.id), Notification), "it was said once"
    new = ended(job.rerun(image=image))
    found = isolation(session.manager.events(new.id)).details["image_id"]
    assert found == docker_client.api.inspect_image("nodetool-test:user")["Id"] != had


def test_a_rerun_whose_image_is_gone_says_what_to_do(
    engine: Engine, session: Session, docker_client: docker.DockerClient
) -> None:
    made = docker_client.api.create_container(images.IMAGE, ["true"])
    docker_client.api.commit(made, "nodetool-test", "passing", changes=[*images.BASE, "LABEL passing=1"])
    docker_client.api.remove_container(made)
    job = ended(run("1", runner="docker", image="nodetool-test:passing"))
    until(lambda: not docker_client.api.containers(all=True), "its container is gone")
    docker_client.api.remove_image("nodetool-test:passing")
    session.manager.runner("docker").images._known.clear()  # type: ignore[attr-defined]  # as after some seconds
    with pytest.raises(ImageMissing, match="Add --image nodetool-test:passing to run with what that name means now"):
        job.rerun()


def test_a_process_says_that_gpus_are_advice(session: Session) -> None:
    with pytest.raises(LimitNotHeld, match="can't hold --gpus"):
        run("1", runner="subprocess", gpus="1")
    job = ended(run("import os; x = os.environ['CUDA_VISIBLE_DEVICES']", runner="subprocess", gpus="2",
                    outputs=["x"], limits=Limits(best_effort=True), profile=Profile.DEFAULT))  # fmt: skip
    assert job.outputs["x"] == "0,1"
    assert isolation(session.manager.events(job.id)).not_held == ("gpus",)

"""`--requirements`: an image with a job's packages, built once, from wheels alone and without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from nodetool_jupyter import places
from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.events import AnyEvent, NodeProgress
from nodetool_jupyter.jobs import Job, JobStatus, Profile, Reason
from nodetool_jupyter.runners.base import WorkerNotStarted
from nodetool_jupyter.runners.docker import syscalls, wheels
from nodetool_jupyter.runners.docker.engine import CallOff
from nodetool_jupyter.runners.docker.probe import Python
from nodetool_jupyter.view import begin, fold_all, view_text
from tests.docker.jobs import Jobs, isolation, jobs_on
from tests.docker.packages import offline, sdist, wheel
from tests.engine import images
from tests.engine.private import Engine, until
from tests.workflows.seeing import of, text

LONG_GUARD_SECONDS = 300.0
CPYTHON = f"cp{images.PYTHON.replace('.', '')}"
pytestmark = pytest.mark.timeout(3 * LONG_GUARD_SECONDS)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Where pip finds packages: alpha needs beta on the image's Python, delta has no wheel, epsilon none for it."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "alpha", needs=(f'beta; python_version == "{images.PYTHON}"', 'gone; python_version < "3"'))
    wheel(folder, "alpha", "0.9")
    wheel(folder, "beta", tag=f"{CPYTHON}-{CPYTHON}-manylinux_2_17_x86_64")
    sdist(folder, "delta", setup=f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    wheel(folder, "epsilon", tag="cp39-cp39-win_amd64")
    wheel(folder, "zeta", needs=("nowhere",))
    return folder


@pytest.fixture
def jobs(engine: Engine, environ: dict[str, str], index: Path, docker_client: docker.DockerClient) -> Iterator[Jobs]:
    """Jobs whose pip knows the packages of `index`; what they build is removed."""
    with jobs_on(engine, offline(environ, index)) as found:
        yield found
    for image in built(docker_client):
        docker_client.api.remove_image(image, force=True)


def built(client: docker.DockerClient) -> list[str]:
    return [image["Id"] for image in client.api.images(filters={"label": "nodetool.built"})]


def end(jobs: Jobs, job: Job) -> tuple[Job, list[AnyEvent]]:
    """Wait for it, longer than for others: pip is slow on a machine that is busy."""
    return jobs.manager.wait(job.id, LONG_GUARD_SECONDS), jobs.manager.events(job.id)


def run(jobs: Jobs, code: str, **fields: Any) -> tuple[Job, list[AnyEvent]]:
    return end(jobs, jobs.submit(code, **fields))


def wanting(*lines: str, image: str = "") -> ContainerOptions:
    return ContainerOptions(image=image, requirements=lines)


def test_a_job_finds_its_packages_and_what_they_need(jobs: Jobs) -> None:
    job, events = run(jobs, "import alpha, beta\nprint(alpha.VERSION, beta.VERSION)", container=wanting("alpha"))
    assert (job.status, text(events)) == (JobStatus.COMPLETED, "1.0 1.0\n"), job.message
    bars = [event for event in of(events, NodeProgress) if event.node_id == "image"]
    assert bars[-1].closed
    assert any(bar.label == "image: install 2 wheels" for bar in bars)


def test_the_image_is_built_once_for_what_goes_in(jobs: Jobs, docker_client: docker.DockerClient) -> None:
    first, events = run(jobs, "import alpha", container=wanting("alpha", "beta"))
    again, later = run(jobs, "import beta", container=wanting("beta", "alpha"))
    assert [first.status, again.status] == [JobStatus.COMPLETED] * 2
    assert not [event for event in of(later, NodeProgress) if event.node_id == "image"]
    assert isolation(events).details["built"] == isolation(later).details["built"]
    assert len(built(docker_client)) == 1
    [name] = docker_client.api.inspect_image(built(docker_client)[0])["RepoTags"]
    assert f"  packages   beta, alpha ({name})" in view_text(fold_all(begin(again), later), 0.0).splitlines()
    other, _ = run(jobs, "import alpha; assert alpha.VERSION == '0.9'", container=wanting("alpha==0.9"))
    assert other.status is JobStatus.COMPLETED
    assert len(built(docker_client)) == 2


def test_two_jobs_at_once_build_one_image(jobs: Jobs, docker_client: docker.DockerClient) -> None:
    both = [jobs.submit("import alpha", container=wanting("alpha")) for _ in range(2)]
    assert [end(jobs, job)[0].status for job in both] == [JobStatus.COMPLETED] * 2
    assert len(built(docker_client)) == 1
    assert not list(places.lease_file("").glob("image-*")), "what they waited for each other at is gone"


def test_the_image_says_what_it_is_and_belongs_to_nobody_and_no_other_takes_its_place(
    jobs: Jobs, docker_client: docker.DockerClient
) -> None:
    """Containers take on an image's labels: one that named an owner would have a person's containers swept."""
    run(jobs, "1", container=wanting("alpha"))
    [image] = built(docker_client)
    found = docker_client.api.inspect_image(image)
    labels = found["Config"]["Labels"]
    assert labels["nodetool.base"] == images.IMAGE
    assert labels["nodetool.requirements"] == "alpha"
    assert found["RepoTags"] == [f"nodetool/built:{labels['nodetool.built'][:12]}"]
    assert not any(jobs.manager.owner.id in value for value in labels.values())
    assert found["Config"]["Cmd"] == ["python3"]
    # whoever knows what goes in knows the label, and may have put it on an image that somebody fetched
    docker_client.api.remove_image(image, force=True)
    made = docker_client.api.create_container(images.IMAGE, ["true"])
    recipe = labels["nodetool.built"]
    docker_client.api.commit(made, "fetched", "1", changes=[*images.BASE, f"LABEL nodetool.built={recipe}"])
    docker_client.api.remove_container(made)
    job, _ = run(jobs, "import alpha", container=wanting("alpha"))
    assert job.status is JobStatus.COMPLETED, job.message


@pytest.mark.parametrize("image", ["nodetool-test:user", "nodetool-test:workdir", "nodetool-test:shared"])
def test_what_the_base_image_declares_stays(jobs: Jobs, docker_client: docker.DockerClient, image: str) -> None:
    job, _ = run(jobs, "import alpha", container=wanting("alpha", image=image))
    assert job.status is JobStatus.COMPLETED, job.message
    [made] = built(docker_client)
    now, base = (docker_client.api.inspect_image(name)["Config"] for name in (made, image))
    assert now["User"] in (base["User"], "0:0" if not base["User"] else "")
    same = {"Labels": None, "User": None, "Entrypoint": None}
    assert not now["Entrypoint"]
    assert {**now, **same} == {**base, **same}


def test_untrusted_code_has_packages_too(jobs: Jobs) -> None:
    job, _ = run(jobs, "import alpha", profile=Profile.UNTRUSTED, container=wanting("alpha"))
    assert job.status is JobStatus.COMPLETED, job.message


def test_a_hash_that_does_not_fit_is_refused_before_anything_is_installed(jobs: Jobs, index: Path) -> None:
    right = hashlib.sha256((index / "alpha-0.9-py3-none-any.whl").read_bytes()).hexdigest()
    job, _ = run(jobs, "import alpha", container=wanting(f"alpha==0.9 --hash=sha256:{right}"))
    assert job.status is JobStatus.COMPLETED, job.message
    job, _ = run(jobs, "import alpha", container=wanting(f"alpha==0.9 --hash=sha256:{'0' * 64}"))
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in job.message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nowhere", "There is no package 'nowhere' where pip looks."),
        ("delta", f"Nothing that fits 'delta' has a wheel for Python {images.PYTHON} on "),
        ("epsilon", f"Nothing that fits 'epsilon' has a wheel for Python {images.PYTHON} on "),
        ("alpha>=2", f"Nothing that fits 'alpha>=2' has a wheel for Python {images.PYTHON} on "),
        ("zeta", "There is no package 'nowhere' where pip looks."),
    ],
)
def test_what_can_not_be_had_is_named_in_one_sentence(
    jobs: Jobs, docker_client: docker.DockerClient, tmp_path: Path, line: str, said: str
) -> None:
    job, _ = run(jobs, "1", container=wanting(line))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert job.message.startswith(said)
    assert not (tmp_path / "ran").exists(), "a package's setup.py ran on this machine"
    left_nothing(jobs, docker_client, job)


def test_an_image_without_python_is_named(jobs: Jobs, docker_client: docker.DockerClient) -> None:
    docker_client.api.import_image_from_data(_empty_tar(), repository="nodetool-test", tag="empty")
    try:
        job, _ = run(jobs, "1", container=wanting("alpha", image="nodetool-test:empty"))
    finally:
        docker_client.api.remove_image("nodetool-test:empty")
    assert job.message.startswith("Image 'nodetool-test:empty' has no python3 that could take the requirements.")


@pytest.mark.parametrize(
    "change", ["p['markers']['os_name'] = 'x' * 300000", "p['markers'].update((str(n), '') for n in range(10000))"]
)
def test_markers_without_a_bound_are_no_pythons(jobs: Jobs, docker_client: docker.DockerClient, change: str) -> None:
    asked = f'"$REAL" "$@" | "$REAL" -c "import json; p = json.loads(input()); {change}; print(json.dumps(p))"'
    images.load_with_python3(
        docker_client, "nodetool-test:markers", f'case "$*" in *markers*) {asked};; *) exec "$REAL" "$@";; esac'
    )
    try:
        job, _ = run(jobs, "1", container=wanting("alpha", image="nodetool-test:markers"))
        assert job.message.startswith("Image 'nodetool-test:markers' has no python3 that could take the requirements.")
    finally:
        docker_client.api.remove_image("nodetool-test:markers")


def test_a_job_cancelled_while_wheels_are_fetched_leaves_nothing(
    jobs: Jobs, docker_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_PIP", "print('Collecting alpha', flush=True)\nimport time\ntime.sleep(1000)")
    job = jobs.submit("1", container=wanting("alpha"))
    until(lambda: shown(jobs, job, "image: fetch alpha"), "pip runs")
    jobs.manager.cancel(job.id)
    assert end(jobs, job)[0].status is JobStatus.CANCELLED
    left_nothing(jobs, docker_client, job)


def test_a_job_cancelled_while_packages_are_installed_leaves_nothing(
    jobs: Jobs, docker_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodetool_jupyter.runners.docker.built._INSTALL", ["sleep", "1000"])
    job = jobs.submit("1", container=wanting("alpha"))
    until(lambda: shown(jobs, job, "image: install 2 wheels") and jobs.containers(), "it installs")
    jobs.manager.cancel(job.id)
    assert end(jobs, job)[0].status is JobStatus.CANCELLED
    left_nothing(jobs, docker_client, job)


def test_an_installation_that_fails_is_told_and_leaves_nothing(
    jobs: Jobs, docker_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nodetool_jupyter.runners.docker.built._INSTALL", ["sh", "-c", "echo 'ERROR: No space left.' >&2; exit 1"]
    )
    job, _ = run(jobs, "1", container=wanting("alpha"))
    assert job.message.startswith("The requirements can't be installed into the image: No space left.")
    left_nothing(jobs, docker_client, job)


def test_installing_has_no_network_and_no_rights(
    jobs: Jobs, docker_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodetool_jupyter.runners.docker.built._INSTALL", ["sleep", "1000"])
    job = jobs.submit("1", container=wanting("alpha"))
    until(lambda: shown(jobs, job, "image: install 2 wheels") and len(jobs.containers()) == 1, "it installs")
    [container] = jobs.containers()
    found = docker_client.api.inspect_container(container)
    host = found["HostConfig"]
    assert (host["NetworkMode"], host["CapDrop"], host["Privileged"]) == ("none", ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges=true", f"seccomp={syscalls.profile()}"]
    there = docker_client.info()
    assert (host["Memory"], host["PidsLimit"]) == (min(4 << 30, there["MemTotal"]), 512)
    assert host["NanoCpus"] == min(2, there["NCPU"]) * 10**9
    assert [(mount["Type"], mount["Destination"]) for mount in found["Mounts"]] == [("volume", "/mnt")]
    jobs.manager.cancel(job.id)
    end(jobs, job)


def test_without_pip_nothing_is_started(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(wheels.NoPip, match="needs pip on this machine"):
        jobs.submit("1", container=wanting("alpha"))


def test_wheels_are_for_the_python_of_the_image_and_not_for_the_kernels(
    index: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    markers = {"python_version": "3.13", "python_full_version": "3.13.1", "sys_platform": "linux", "os_name": "posix"}
    image = Python("3.13.1", "cp313", "glibc", "2.36", "aarch64", markers)
    wheel(index, "eta", tag="cp313-cp313-manylinux_2_28_aarch64", needs=('theta; python_version >= "3.13"',))
    wheel(index, "theta")
    assert names(index, environ, tmp_path, image, "eta", "alpha") == [
        "alpha-1.0-py3-none-any.whl",
        "eta-1.0-cp313-cp313-manylinux_2_28_aarch64.whl",
        "theta-1.0-py3-none-any.whl",
    ]


def test_an_image_with_musl_gets_wheels_for_musl(index: Path, environ: dict[str, str], tmp_path: Path) -> None:
    markers = {"python_version": "3.12", "python_full_version": "3.12.1", "sys_platform": "linux"}
    image = Python("3.12.1", "cp312", "musl", "", "x86_64", markers)
    wheel(index, "eta", tag="cp312-cp312-musllinux_1_2_x86_64")
    wheel(index, "theta", tag="cp312-cp312-manylinux_2_17_x86_64")
    assert names(index, environ, tmp_path, image, "eta") == ["eta-1.0-cp312-cp312-musllinux_1_2_x86_64.whl"]
    with pytest.raises(WorkerNotStarted, match=r"fits 'theta' has a wheel for Python 3\.12 on x86_64 \(musl\)"):
        names(index, environ, tmp_path, image, "theta")


def names(index: Path, environ: dict[str, str], tmp_path: Path, image: Python, *lines: str) -> list[str]:
    file = tmp_path / "requirements.txt"
    file.write_text("\n".join(lines))
    folder = tmp_path / f"wheels-{lines[0]}"
    found = wheels.fetch(file, image, folder, offline(environ, index), say=lambda name: None, stop=CallOff())
    return [path.name for path in found]


def shown(jobs: Jobs, job: Job, label: str) -> bool:
    return any(event.label == label for event in of(jobs.manager.events(job.id), NodeProgress))


def left_nothing(jobs: Jobs, client: docker.DockerClient, job: Job) -> None:
    assert not built(client)
    assert not jobs.containers()
    assert not (places.owner_root(jobs.manager.owner.id) / job.id).exists()


def _empty_tar() -> bytes:
    return bytes(10240)

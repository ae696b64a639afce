"""Which image a job gets: fetched from a real registry when it should be, and the same one again for a rerun."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator

import docker
import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.events import NodeProgress, Notification
from nodetool_jupyter.jobs import JobStatus, Reason
from nodetool_jupyter.runners.docker import probe
from nodetool_jupyter.runners.docker.images import Image, ImageMissing, _not_pulled
from nodetool_jupyter.view import bar_lines, begin, fold_all
from tests.docker.jobs import Jobs, isolation, jobs_on
from tests.engine import images, private
from tests.engine.private import Engine, until
from tests.engine.registry import SlowRegistry, free_port, push, refusing_registry, registry
from tests.workflows.seeing import of, text

MARK = "print(open('/srv/mark').read())"
LAYER_BYTES = 1 << 20


@pytest.fixture(scope="module")
def address(run_engine: private.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with `test/python:1`, which is not in the engine."""
    with registry(tmp_path_factory.mktemp("registry")) as found, run_engine.client() as client:
        _publish(client, f"{found}/test/python:1", "one")
        yield found


@pytest.fixture
def jobs(engine: Engine, environ: dict[str, str], address: str, docker_client: docker.DockerClient) -> Iterator[Jobs]:
    with jobs_on(engine, environ) as found:
        yield found
    for image in docker_client.api.images():
        names = [*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())]
        if any("/test/" in name for name in names):
            docker_client.api.remove_image(image["Id"], force=True)


def test_an_image_that_is_missing_is_fetched_once_with_progress_and_its_digest_is_kept(
    jobs: Jobs, address: str, docker_client: docker.DockerClient
) -> None:
    wanted = ContainerOptions(image=f"{address}/test/python:1")
    job, events = jobs.run(MARK, container=wanted)
    assert (job.status, text(events)) == (JobStatus.COMPLETED, "one\n"), job.message
    bars = [event for event in of(events, NodeProgress) if event.node_id == "pull"]
    assert bars[-1].closed
    assert (bars[-1].progress, bars[-1].unit, bars[-1].chunk) == (bars[-1].total, "B", "")
    assert (bars[-1].total or 0) >= LAYER_BYTES
    assert bars[-1].label.startswith("pull ")
    assert bars[-1].label.endswith("python:1")
    assert any(bar.unit == "B" and (bar.total or 0) >= LAYER_BYTES for bar in bars)
    details = isolation(events).details
    found = docker_client.api.inspect_image(wanted.image)
    assert details["image"] == wanted.image
    assert details["image_id"] == found["Id"]
    assert found["RepoDigests"] == [f"{address}/test/python@{details['digest']}"]
    again, later = jobs.run(MARK, container=wanted)
    assert again.status is JobStatus.COMPLETED
    assert not of(later, NodeProgress)


def test_never_means_that_nothing_is_started_without_the_image(jobs: Jobs, address: str) -> None:
    with pytest.raises(ImageMissing, match=r"is not on this machine\. Pull it yourself \(docker pull "):
        jobs.submit(MARK, container=ContainerOptions(image=f"{address}/test/python:1", pull="never"))


def test_always_takes_what_the_tag_means_now(jobs: Jobs, address: str, docker_client: docker.DockerClient) -> None:
    wanted = ContainerOptions(image=f"{address}/test/moving:1")
    _publish(docker_client, wanted.image, "one")
    assert text(jobs.run(MARK, container=wanted)[1]) == "one\n"
    until(lambda: not jobs.containers(), "the container is gone")
    docker_client.api.remove_image(wanted.image)
    _publish(docker_client, wanted.image, "two")
    always = ContainerOptions(image=wanted.image, pull="always")
    assert text(jobs.run(MARK, container=always)[1]) == "two\n"
    job, events = jobs.run(MARK, container=always)
    [bar] = bar_lines(fold_all(begin(job), events))
    assert re.fullmatch(r"pull \S*moving:1  █+  100% · up to date", bar)


def test_a_digest_is_taken_as_it_is_also_when_always_is_asked_for(
    jobs: Jobs, address: str, docker_client: docker.DockerClient
) -> None:
    digest = _publish(docker_client, f"{address}/test/digest:1", "by digest")
    wanted = ContainerOptions(image=f"{address}/test/digest@{digest}", pull="always")
    job, events = jobs.run(MARK, container=wanted)
    assert (job.status, text(events)) == (JobStatus.COMPLETED, "by digest\n"), job.message
    assert isolation(events).details["digest"] == digest
    assert not of(events, Notification)


def test_a_tag_that_moves_is_said_once(jobs: Jobs, address: str, docker_client: docker.DockerClient) -> None:
    _publish(docker_client, f"{address}/test/plain:latest", "latest")
    said = []
    for name in (f"{address}/test/plain", f"{address}/test/plain", f"{address}/test/plain:latest"):
        _, events = jobs.run(MARK, container=ContainerOptions(image=name))
        said.append([note.content for note in of(events, Notification)])
    assert [len(one) for one in said] == [1, 0, 1]
    assert said[0] == [
        f"Image '{address}/test/plain' has no tag that stays the same. Pin one, as in {address}/test/plain:1.2.3."
    ]


def test_an_image_that_nobody_has_is_a_sentence(jobs: Jobs, address: str) -> None:
    job, _ = jobs.run("1", container=ContainerOptions(image=f"{address}/test/nothing:1"))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert job.message.startswith(f"Image '{address}/test/nothing:1' ")
    assert "Check the name and the tag" in job.message


def test_a_registry_that_is_down_is_a_sentence(jobs: Jobs) -> None:
    name = f"127.0.0.1:{free_port()}/test/python:1"
    job, _ = jobs.run("1", container=ContainerOptions(image=name))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert job.message.startswith(f"Image '{name}' ")
    assert "connection refused" in job.message
    assert "load the image by hand" in job.message


def test_an_image_that_is_here_is_never_said_not_to_be(jobs: Jobs, docker_client: docker.DockerClient) -> None:
    name = f"127.0.0.1:{free_port()}/here/python:1"
    docker_client.api.tag(images.IMAGE, *name.rsplit(":", 1))
    try:
        job, _ = jobs.run("1", container=ContainerOptions(image=name, pull="always"))
        begins = f"Image '{name}' is on this machine and can't be refreshed, as --pull always asks: "
        assert job.message.startswith(begins)
        assert job.message.endswith("connection refused). --pull missing takes the one that is here.")
        job, _ = jobs.run("1", container=ContainerOptions(image=name, pull="missing"))
        assert job.status is JobStatus.COMPLETED, job.message
    finally:
        docker_client.api.remove_image(name)


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        ("manifest for x:1 not found", "Check the name"),
        ("dial tcp: connection refused", "Check the engine's network"),
        ("toomanyrequests: no", "Try later"),
        ("no basic auth credentials", "Log in"),
    ],
)
def test_why_an_image_did_not_come_is_told_with_what_to_do(why: str, remedy: str) -> None:
    there, not_there = (_not_pulled("x:1", why, is_here=is_here) for is_here in (True, False))
    assert "--pull missing takes the one that is here" in there
    assert "not on this machine" not in there
    assert "is on this machine" not in not_there
    assert remedy in not_there


def test_a_registry_that_falls_silent_is_told_and_not_taken_for_an_engine_that_does(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodetool_jupyter.runners.docker.images._PULL_SILENCE_SECONDS", 1.0)
    with SlowRegistry().serving() as slow:
        job, _ = jobs.run("1", container=ContainerOptions(image=slow.name))
    assert "can't be pulled: nothing came of it for 1 s. Check the engine's network" in job.message


@pytest.mark.parametrize(
    ("status", "words", "remedy"),
    [
        (401, "UNAUTHORIZED: authentication required", "Log in with docker login, as the user that runs this kernel."),
        (403, "DENIED: requested access to the resource is denied", "Log in with docker login"),
        (429, "TOOMANYREQUESTS: You have reached your pull rate limit.", "Try later, or log in with docker login"),
    ],
)
def test_a_registry_that_refuses_is_answered_with_a_login(jobs: Jobs, status: int, words: str, remedy: str) -> None:
    with refusing_registry(status, words) as name:
        job, _ = jobs.run("1", container=ContainerOptions(image=name))
    assert remedy in job.message
    assert "network" not in job.message


def test_a_job_cancelled_while_its_image_is_fetched_leaves_nothing(
    jobs: Jobs, docker_client: docker.DockerClient
) -> None:
    with SlowRegistry().serving() as slow:
        job = jobs.submit("1", container=ContainerOptions(image=slow.name))
        until(lambda: of(jobs.manager.events(job.id), NodeProgress), "bytes come")
        jobs.manager.cancel(job.id)
        assert jobs.end(job)[0].status is JobStatus.CANCELLED
    assert not jobs.containers()
    assert not docker_client.images.list(slow.name)


def _publish(client: docker.DockerClient, name: str, mark: str) -> str:
    """Put an image with a mark and a layer of its own into the registry; the engine doesn't have it then."""
    container = client.api.create_container(images.IMAGE, ["true"])
    try:
        client.api.put_archive(container, "/srv", _tar({"mark": mark.encode(), "noise": os.urandom(LAYER_BYTES)}))
        repository, tag = name.rsplit(":", 1)
        made = client.api.commit(container, repository, tag, changes=images.BASE)
    finally:
        client.api.remove_container(container)
    try:
        return push(client, made["Id"], name)
    except BaseException:
        client.api.remove_image(name)
        raise


def _tar(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return written.getvalue()


def test_an_image_whose_python_never_ends_is_not_waited_for(
    jobs: Jobs, docker_client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 1.0)
    there = "/usr/local/bin/python3"
    program = f"printf '#!/bin/sh\\nwhile :; do echo word; done\\n' > {there}; chmod 755 {there}"
    made = docker_client.api.create_container(images.IMAGE, ["sh", "-c", program], user="0")["Id"]
    docker_client.api.start(made)
    docker_client.api.wait(made)
    endless = docker_client.api.commit(made)["Id"]
    docker_client.api.remove_container(made, v=True)
    try:
        runner = jobs.manager.runner("docker")
        assert runner.python_of(Image("endless", endless)) == ""  # type: ignore[attr-defined]
        assert not runner.engine.silent  # type: ignore[attr-defined]
        assert not docker_client.api.containers(all=True, filters={"ancestor": endless})
    finally:
        docker_client.api.remove_image(endless)

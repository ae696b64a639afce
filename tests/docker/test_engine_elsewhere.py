"""An engine that listens on a port, with TLS and without; and every way in which its address can be wrong."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from nodetool_jupyter.containers import Bind, ContainerOptions
from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.jobs import JobStatus, Profile
from nodetool_jupyter.runners.docker.endpoint import SOCKET, endpoint
from nodetool_jupyter.runners.docker.engine import Engine as Asked
from nodetool_jupyter.runners.docker.engine import EngineUnavailable
from nodetool_jupyter.runners.docker.lines import opened_events
from tests.docker.certificates import authority, certificate, for_client
from tests.docker.jobs import SLEEP, Jobs, kept_environ
from tests.docker.jobs import jobs_on as jobs_here
from tests.docker.test_standby import waiting
from tests.engine import images, private
from tests.engine.private import Engine
from tests.engine.registry import free_port
from tests.engine.shared import ask_for_engine
from tests.workflows.seeing import text

LOUD = "import sys\nfor _ in range(64):\n    sys.stdout.write('x' * 65535 + '\\n')"


@pytest.fixture(scope="module", params=["tcp", "TLS"])
def elsewhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    ask_for_engine()
    address = f"tcp://127.0.0.1:{free_port()}"
    options, settings = ["--host", address], {"DOCKER_HOST": address}
    if request.param == "TLS":
        folder = tmp_path_factory.mktemp("pki") / "ca"
        authority(folder)
        certificate(folder, "server", server=True)
        options += ["--tlsverify", f"--tlscacert={folder}/ca.pem", f"--tlscert={folder}/server.pem"]
        options += [f"--tlskey={folder}/server-key.pem"]
        settings.update(DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(for_client(folder)))
    with private.running(*options) as engine:
        with engine.client() as client:
            images.load(client, variants=False)
        engine.environ = settings
        yield engine


@pytest.fixture(autouse=True)
def _settings_for_web_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many companies; they mean no engine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.certs.where())


@pytest.fixture
def jobs(elsewhere: Engine, environ: dict[str, str], tmp_path: Path) -> Iterator[Jobs]:
    with jobs_here(elsewhere, kept_environ(environ, tmp_path)) as found:
        yield found


def test_jobs_run_there_as_they_do_here(jobs: Jobs) -> None:
    job, events = jobs.run(LOUD, outputs=())
    assert job.status is JobStatus.COMPLETED, job.message
    assert text(events).count("\n") > 1
    known = waiting(jobs)
    [box] = [one.box for one in jobs.manager.runner("docker")._pool._waiting]  # type: ignore[attr-defined]
    assert box.connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), "a job may say nothing for hours"
    job, _ = jobs.run("y = bytes(3 << 20)", outputs=("y",), grace_seconds=5.0)
    assert job.status is JobStatus.COMPLETED, job.message
    assert jobs.container_of(job) in known, "a container that waits is not taken for one that speaks"
    assert jobs.value(job, "y") == bytes(3 << 20)
    job, _ = jobs.run("1", profile=Profile.UNTRUSTED)
    assert job.status is JobStatus.COMPLETED, job.message


def test_a_job_there_is_stopped(jobs: Jobs) -> None:
    job = jobs.submit(SLEEP)
    jobs.seen(job)
    jobs.manager.cancel(job.id)
    ended, _ = jobs.end(job)
    assert ended.status is JobStatus.CANCELLED


def test_no_folder_of_another_machine_is_mounted(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is another machine's, and its paths can't be checked from here"):
        jobs.submit("1", container=ContainerOptions(binds=(Bind(str(tmp_path), "/data", True),)))


def refusal(settings: dict[str, str]) -> str:
    """What is said; one sentence of what is so and one of what to do."""
    asked = Asked(settings)
    try:
        with pytest.raises(EngineUnavailable) as refused:
            asked.facts()
    finally:
        asked.close()
    said = str(refused.value)
    assert said.startswith("Runner 'docker' is not available: ")
    assert "\n" not in said
    return said


def test_an_engine_and_a_client_that_do_not_agree_say_so(elsewhere: Engine, tmp_path: Path) -> None:
    settings = dict(elsewhere.environ)
    if "DOCKER_TLS_VERIFY" in settings:
        assert "it speaks TLS. Set DOCKER_TLS_VERIFY=1" in refusal({"DOCKER_HOST": settings["DOCKER_HOST"]})
        unknown = tmp_path / "another"
        authority(unknown)
        given = for_client(unknown)
        said = refusal({**settings, "DOCKER_CERT_PATH": str(given)})
        assert "its certificate can't be trusted" in said
        shutil.copy(Path(settings["DOCKER_CERT_PATH"]) / "ca.pem", given / "ca.pem")
        assert "don't agree on TLS" in refusal({**settings, "DOCKER_CERT_PATH": str(given)})
    else:
        folder = tmp_path / "mine"
        authority(folder)
        said = refusal({**settings, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(for_client(folder))})
        assert "don't agree on TLS" in said


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("ssh://me@far", "forward it to a port"),
        ("http://127.0.0.1:2375", "Write unix:///PATH or tcp://HOST:PORT"),
        ("https://127.0.0.1:2376", "Write unix:///PATH or tcp://HOST:PORT"),
        ("fd://", "Write unix:///PATH or tcp://HOST:PORT"),
        ("npipe:////./pipe/docker_engine", "Write unix:///PATH or tcp://HOST:PORT"),
        ("/var/run/docker.sock", "Write unix:///PATH or tcp://HOST:PORT"),
        ("127.0.0.1:2375", "Write unix:///PATH or tcp://HOST:PORT"),
        ("tcp://", "Write unix:///PATH or tcp://HOST:PORT"),
        ("tcp://[::1", "Write unix:///PATH or tcp://HOST:PORT"),
        ("tcp://127.0.0.1:port", "Write unix:///PATH or tcp://HOST:PORT"),
        ("tcp://127.0.0.1", "names no port. Add it: 2376 is usual with TLS, 2375 without"),
        ("tcp://me:word@127.0.0.1:1", "Leave them out"),
        ("tcp://127.0.0.1:1", "connection refused"),
    ],
)
def test_an_address_that_is_none_says_what_to_write(host: str, said: str) -> None:
    found = refusal({"DOCKER_HOST": host})
    assert said in found
    assert "word@" not in found


def test_a_process_with_too_many_files_open_is_not_told_to_start_an_engine() -> None:
    asked = Asked({})

    def fail(client: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    asked._version = "1.41"  # as of one that answered before
    with pytest.raises(EngineUnavailable, match=r"too many files open .* Run fewer jobs at once, or allow more"):
        asked.ask(fail)
    asked.close()


def test_a_stream_of_an_engine_that_is_gone_by_then_is_told_like_a_call() -> None:
    asked = Asked({"DOCKER_HOST": "tcp://127.0.0.1:1"})
    asked._version = "1.41"  # as of one that answered before
    with pytest.raises(EngineUnavailable, match=r"no engine answers at .*: connection refused"):
        asked.ask(lambda client: opened_events(client, {}, seconds=3.0))
    asked.close()


@pytest.mark.parametrize(
    ("settings", "there", "said"),
    [
        ({"DOCKER_TLS_VERIFY": "1"}, "", "DOCKER_TLS_VERIFY is set, and there is no .*/ca.pem. Put ca.pem, cert.pem"),
        ({"DOCKER_TLS_VERIFY": "1"}, "ca.pem", "DOCKER_TLS_VERIFY is set, and there is no .*/cert.pem"),
        ({}, "cert.pem", "DOCKER_CERT_PATH is set, and there is no .*/key.pem. .* or unset DOCKER_CERT_PATH"),
    ],
)
def test_certificates_that_are_not_there_are_named(
    tmp_path: Path, settings: dict[str, str], there: str, said: str
) -> None:
    if there:
        (tmp_path / there).touch()
    found = refusal({"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_CERT_PATH": str(tmp_path), **settings})
    assert re.search(said, found), found


@pytest.mark.parametrize("host", [{}, {"DOCKER_HOST": ""}, {"DOCKER_HOST": " "}, {"DOCKER_HOST": "unix://"}])
def test_no_address_is_this_machine_s_engine_which_has_no_tls(host: dict[str, str]) -> None:
    found = endpoint({**host, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/nowhere"})
    assert (found.url, found.socket) == (f"unix://{SOCKET}", SOCKET)
    assert found.options() == {"base_url": f"unix://{SOCKET}"}

"""What can't run in a container here is refused with one sentence that says what to do, and nothing is left of it."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.errors import Refused
from nodetool_jupyter.runners.docker import engine as engine_module
from nodetool_jupyter.runners.docker import probe
from nodetool_jupyter.runners.docker.engine import EngineUnavailable
from nodetool_jupyter.runners.docker.images import ImageMissing
from nodetool_jupyter.runners.docker.runner import DockerRunner
from tests.docker.faulty import jobs_on
from tests.docker.proxy import Proxy
from tests.engine import images
from tests.engine.private import Engine, until

ASKS = """
import os, sys
from nodetool_jupyter.runners.docker.engine import Engine
try:
    Engine(os.environ).facts()
except Exception as error:
    print(error)
"""


class FakeEngine:
    """A socket that says one thing to everyone, or nothing; knows whether anybody asked. first: to those who do."""

    def __init__(self, folder: Path, says: bytes = b"", first: Sequence[bytes] = ()) -> None:
        self.path = folder / "fake.sock"
        self.url = f"unix://{self.path}"
        self._says = says
        self._first = list(first)
        self._taken: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            if not self._says:
                self._taken.append(taken)
                continue
            with taken:
                taken.recv(64 << 10)
                taken.sendall(self._first.pop(0) if self._first else self._says)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in [self._listener, *self._taken]:
            one.close()


class DrippingEngine(FakeEngine):
    """Begins an answer to everyone at once, and goes on with a byte every now and then."""

    def __init__(self, folder: Path) -> None:
        self._closed = threading.Event()
        super().__init__(folder)
        self._dripping = threading.Thread(target=self._drip, daemon=True)
        self._dripping.start()

    def _drip(self) -> None:
        begun: set[socket.socket] = set()
        while not self._closed.wait(0.05):
            for one in list(self._taken):
                with suppress(OSError):
                    one.send(b" " if one in begun else b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                begun.add(one)

    def close(self) -> None:
        self._closed.set()
        self._dripping.join()
        super().close()


@pytest.fixture
def silent_engine(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(tmp_path)
    yield fake
    fake.close()


@pytest.fixture
def old_engine(tmp_path: Path) -> Iterator[FakeEngine]:
    body = json.dumps({"ApiVersion": "1.24", "Version": "1.12.0"}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    fake = FakeEngine(tmp_path, head.encode() + body)
    yield fake
    fake.close()


def refusal(url: str, environ: dict[str, str]) -> str:
    """What is said when a job is submitted; there must be no job then."""
    with jobs_on(url, environ) as jobs:
        with pytest.raises(EngineUnavailable) as refused:
            jobs.submit("1")
        assert not jobs.manager.find()
        assert jobs.manager.runner("docker").holds() == {}
    return str(refused.value)


def test_without_an_engine_the_remedy_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    said = refusal(f"unix://{tmp_path}/none.sock", environ)
    assert "there is no such socket" in said
    assert "Start Docker, set DOCKER_HOST to where it listens, or choose another --runner" in said


def test_an_engine_that_is_dead_refused_the_connection(environ: dict[str, str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
        assert "connection refused" in refusal(f"unix://{tmp_path}/dead.sock", environ)


def test_an_engine_that_never_answers_is_not_waited_for(environ: dict[str, str], silent_engine: FakeEngine) -> None:
    assert "did not answer" in refusal(silent_engine.url, environ)


def test_an_engine_that_answers_without_end_is_not_waited_for(environ: dict[str, str], tmp_path: Path) -> None:
    dripping = DrippingEngine(tmp_path)
    try:
        assert "did not answer within 3 s" in refusal(dripping.url, environ)
    finally:
        dripping.close()


def test_after_three_misses_a_silent_engine_is_not_even_asked(
    environ: dict[str, str], silent_engine: FakeEngine
) -> None:
    with jobs_on(silent_engine.url, environ) as jobs:
        for _ in range(3):
            with pytest.raises(EngineUnavailable, match="did not answer"):
                jobs.submit("1")
        asked = len(silent_engine._taken)
        with pytest.raises(EngineUnavailable, match="3 times in a row; it is asked again in seconds"):
            jobs.submit("1")
        assert len(silent_engine._taken) == asked


def test_an_engine_that_is_too_old_is_told_from_none(environ: dict[str, str], old_engine: FakeEngine) -> None:
    said = refusal(old_engine.url, environ)
    assert "speaks API 1.24, and 1.41 is needed" in said
    assert "Docker 20.10 or newer" in said


@pytest.mark.parametrize(
    ("told", "spoken"), [("1.41", "1.41"), ("1.44", "1.44"), ("1.45", "1.45"), ("1.52", "1.45"), ("2.0", "1.45")]
)
def test_a_newer_engine_is_spoken_to_as_this_program_knows_it(told: str, spoken: str) -> None:
    assert engine_module.Engine({})._spoken(told) == spoken


def test_what_is_no_engine_is_said_so() -> None:
    with pytest.raises(engine_module.EngineUnavailable, match="is no engine"):
        engine_module.Engine({})._spoken("one.two")


def test_an_engine_that_one_may_not_use_says_which_group_may(environ: dict[str, str], engine: Engine) -> None:
    path = engine.url.removeprefix("unix://")
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, 0)
    try:  # root itself may not, without these rights
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-c", ASKS]
        asked = subprocess.run(command, env={**environ, "DOCKER_HOST": engine.url}, capture_output=True, text=True)
    finally:
        os.chmod(path, mode)
    assert "permission denied" in asked.stdout, asked.stderr
    assert "usermod -aG docker" in asked.stdout


def test_an_image_that_may_not_be_fetched_makes_no_job(engine: Engine, environ: dict[str, str]) -> None:
    with jobs_on(engine.url, environ) as jobs:
        with pytest.raises(ImageMissing, match="docker pull nowhere/none:1"):
            jobs.submit("1", image="nowhere/none:1", pull="never")
        assert not jobs.manager.find()


def test_a_cell_waits_some_seconds_for_an_images_python_and_learns_it_later(
    engine: Engine, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SOON_SECONDS", 0.01)
    proxy = Proxy(engine.url, tmp_path)
    try:
        with jobs_on(proxy.url, environ) as jobs:
            runner = jobs.manager.runner("docker")
            assert isinstance(runner, DockerRunner)
            image = runner.images.find(ContainerOptions(image=images.IMAGE))
            assert image is not None
            creating = proxy.hold("containers/create")
            assert [runner.python_of(image), runner.python_of(image)] == ["", ""]
            assert not creating.released.is_set()
            creating.release()
            until(lambda: runner.images.python_of(image).startswith(images.PYTHON), "its Python is known")
    finally:
        proxy.close()


def test_every_refusal_of_an_engine_is_a_refusal() -> None:
    assert issubclass(EngineUnavailable, Refused)
    assert issubclass(ImageMissing, Refused)


def answer(status: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


DENIED = answer("403 Forbidden", b"<html><body><h1>403 Forbidden</h1>\nBy its rules.\n</body></html>\n", "text/html")
VERSION = answer("200 OK", b'{"ApiVersion": "1.41", "Version": "20.10"}')


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ([answer("403 Forbidden", b'{"message": "no"}')], "(403 Forbidden, 'no')"),
        ([DENIED], "(403 Forbidden, '403 Forbidden By its rules')"),
        ([answer("500 Internal Server Error", b'{"message": "out (of order."}')], "Error, 'out (of order')"),
        ([answer("404 Not Found", b"")], "(404 Not Found)"),
        ([VERSION, DENIED], "(403 Forbidden, '403 Forbidden By its rules')"),
    ],
)
def test_what_answers_and_refuses_is_not_said_to_be_silent(
    environ: dict[str, str], tmp_path: Path, says: list[bytes], said: str
) -> None:
    proxy = FakeEngine(tmp_path, says=says[-1], first=says[:-1])
    try:
        found = refusal(proxy.url, environ)
    finally:
        proxy.close()
    begins = f"Runner 'docker' is not available: what answers at {proxy.url} refused a call of an engine's API "
    assert found.startswith(f"{begins}(")
    assert f"{said}. Where a proxy stands before the engine" in found
    assert "Start Docker" not in found


def test_a_greeting_that_is_refused_is_told_so_too(tmp_path: Path) -> None:
    proxy = FakeEngine(tmp_path, says=DENIED, first=[VERSION])
    asked = engine_module.Engine({"DOCKER_HOST": proxy.url})
    try:
        with pytest.raises(EngineUnavailable, match=r"refused a call of an engine's API \(403 Forbidden\)\. Where a"):
            asked.ping()
    finally:
        asked.close()
        proxy.close()


@pytest.mark.parametrize("call", ["images.get", "_watch.ensure", "_box"])
def test_a_call_of_a_start_that_a_proxy_refuses_is_told_as_that(
    engine: Engine, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise engine_module.EngineRefused(403, "<h1>403 Forbidden</h1>\nBy its rules.")

    with jobs_on(engine.url, environ) as jobs:
        runner = jobs.manager.runner("docker")
        target, _, method = call.rpartition(".")
        starts = runner._starts  # type: ignore[attr-defined]
        place = {"images": runner.images, "_watch": starts._watch, "": starts}[target]  # type: ignore[attr-defined]
        monkeypatch.setattr(place, method, refused)
        message = jobs.run("1").message
    assert "refused a call of an engine's API (403 Forbidden, '403 Forbidden By its rules'). Where a proxy" in message

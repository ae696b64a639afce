"""Fixtures for tests with a Docker engine; `tests/conftest.py` hands them to everybody."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest

from tests.engine import images, leaks, private
from tests.engine.shared import ask_for_engine, missing, shared_engine

_before = pytest.StashKey[leaks.Before]()
NEED_IMAGE = {"engine", "run_engine", "spare_engine"}
"""Fixtures."""


def make_image_ahead() -> None:
    """Make the image before the first test: no test's time limit has room for that."""
    if missing() is None:
        with suppress(AssertionError):  # the first test that needs it says so
            images.tarball()


@pytest.fixture(scope="session")
def run_engine(request: pytest.FixtureRequest) -> private.Engine:
    """The engine of this run, for fixtures that outlive a test. A test asks for `engine`."""
    return shared_engine(request.config)


@pytest.fixture
def engine(run_engine: private.Engine, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[private.Engine]:
    """The engine of this run as a test's own `DOCKER_HOST`; the test fails with what it leaves there."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ntj-t-") as temporary:
        patch.setenv("TMPDIR", temporary)
        patch.setattr(tempfile, "tempdir", temporary)
        for name, value in run_engine.environ.items():
            patch.setenv(name, value)
        request.node.stash[_before] = leaks.Before(run_engine, leaks.contents(run_engine), Path(temporary))
        yield run_engine


@pytest.fixture
def spare_engine() -> Iterator[private.Engine]:
    """An engine of this test's own, to be stopped, killed and frozen; whatever is in it goes with it."""
    ask_for_engine()
    with private.running() as spare:
        with spare.client() as client:
            images.load(client, variants=False)
        yield spare


@pytest.fixture
def docker_client(engine: private.Engine) -> Iterator[docker.DockerClient]:
    """A client of `engine`."""
    with engine.client() as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_left_in_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check at the very end, after every other fixture has put away what it made."""
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine")
    yield
    if _before in request.node.stash:
        request.node.stash[_before].check()

"""Fixtures of every suite. No test touches the person's own Jupyter folders, settings or jobs."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from nodetool_jupyter.config import Settings
from nodetool_jupyter.events import AnyEvent
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest
from nodetool_jupyter.runners.base import Parcel
from tests.engine.fixtures import (  # noqa: F401  # pytest finds fixtures by name
    NEED_IMAGE,
    docker_client,
    engine,
    make_image_ahead,
    nothing_left_in_engine,
    run_engine,
    spare_engine,
)

if TYPE_CHECKING:
    from nodetool_jupyter.manager import JobExecutionManager

HANG_GUARD_SECONDS = 60.0

hypothesis.settings.register_profile("suite", deadline=None, max_examples=50)
hypothesis.settings.load_profile("suite")

_OURS = ("NODETOOL_", "JUPYTER", "JPY_", "DOCKER_", "DEFAULT_EXECUTION_STRATEGY", "JOB_EXECUTION_STRATEGY")
_EXACT = ("ENV", "THREAD_POOL_SIZE", "MAX_WORKFLOW_THREADS")
_home = pytest.StashKey[tuple[Path, dict[str, str]]]()


def _let_coverage_survive_interrupts() -> None:
    """Measure threads without coverage's lock.

    Stopping a threaded job raises in its thread wherever that is. Inside coverage's own tracer it would leave the
    lock held for ever, and every thread with it. What it guards, the interpreter's own lock guards as well.
    """
    from coverage.collector import Collector

    Collector.lock_data = Collector.unlock_data = lambda self: None  # type: ignore[method-assign]


def pytest_configure(config: pytest.Config) -> None:
    """Give the run folders of its own and an environment without anybody's settings."""
    if config.pluginmanager.has_plugin("_cov"):
        _let_coverage_survive_interrupts()
    home = Path(tempfile.mkdtemp(prefix="ntj-"))
    config.stash[_home] = home, dict(os.environ)
    for name in list(os.environ):
        if name.startswith(_OURS) or name in _EXACT:
            del os.environ[name]
    for name in ("CONFIG", "DATA", "RUNTIME"):
        folder = home / name.lower()
        folder.mkdir(mode=0o700)
        os.environ[f"JUPYTER_{name}_DIR"] = str(folder)
    os.environ["IPYTHONDIR"] = str(home / "ipython")
    os.environ["DOCKER_CONFIG"] = str(home / "docker")
    os.environ["DOCKER_HOST"] = (
        f"unix://{home}/no-engine.sock"  # what isn't given an engine finds none, not the person's
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    needed = any(NEED_IMAGE & set(getattr(item, "fixturenames", ())) for item in session.items)
    if needed and not session.config.option.collectonly:
        make_image_ahead()


@pytest.fixture(scope="module", autouse=True)
def earlier_objects_are_settled() -> None:
    """What earlier modules left to the collector goes before this one, and what stays is not looked through again.

    IPython, and tests of what is left behind, collect often: with all that a whole run imports and keeps each time
    takes most of a second.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _home in config.stash:
        home, environ = config.stash[_home]
        os.environ.clear()
        os.environ.update(environ)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a person who has set nothing, with folders of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "DOCKER_HOST") if name in os.environ}
    return {**kept, "ENV": "test"}


@pytest.fixture
def settings(environ: dict[str, str]) -> Settings:
    """Settings with `ENV=test`: jobs are kept in memory."""
    return Settings(environ)


@pytest.fixture
def manager(settings: Settings) -> Iterator[JobExecutionManager]:
    """A running manager with every runner and a store in memory."""
    from nodetool_jupyter.manager import JobExecutionManager

    with JobExecutionManager(settings) as running:
        yield running


@pytest.fixture
def submit(manager: JobExecutionManager, settings: Settings) -> Callable[..., Job]:
    """Start a piece of code: `submit(code, runner="subprocess", limits=…)`; the job as it was stored."""

    def submit_code(code: str, *, parcel: Parcel | None = None, job_id: str | None = None, **fields: object) -> Job:
        request = JobRequest(work=CodeWork(code), **fields)  # type: ignore[arg-type]
        if parcel is None:
            parcel = Parcel(environ=settings.environ, namespace={})
        return manager.submit(request, parcel, job_id=job_id)

    return submit_code


@pytest.fixture
def run(manager: JobExecutionManager, submit: Callable[..., Job]) -> Callable[..., tuple[Job, list[AnyEvent]]]:
    """Run a piece of code to its end; the final job and its events."""

    def run_code(code: str, **fields: object) -> tuple[Job, list[AnyEvent]]:
        job = manager.wait(submit(code, **fields).id, timeout=HANG_GUARD_SECONDS)
        return job, manager.events(job.id)

    return run_code

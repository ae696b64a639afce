"""Images whose `python3` is something else: what they write never fills a stream that the engine has to empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.jobs import JobStatus, Profile, Reason, ResourceLimits
from nodetool_jupyter.runners.docker import handshake, syscalls
from nodetool_jupyter.worker import seccomp
from tests.docker.faulty import Jobs, containers, eventually_empty, jobs_on
from tests.docker.jobs import jobs_on as filtered_jobs_on
from tests.docker.test_attacks import FILTERS
from tests.engine import images, private
from tests.engine.private import Engine, until
from tests.engine.shared import ask_for_engine
from tests.sandbox.attacks import attack
from tests.workflows.seeing import text

HOSTILE = {
    "floods": "exec cat /dev/zero",
    "floods-stderr": "exec cat /dev/zero >&2",
    # parts of standard output, as our first process sends them
    "floods-well": """exec $REAL -c 'import os
while True: os.write(1, (b"\\1" + (4096).to_bytes(4, "big") + bytes(4096)) * 16)'""",
    "is-ready-twice": """exec $REAL -c 'import os
head = b"{\\"type\\":\\"ready\\",\\"protocol\\":1,\\"python\\":\\"3.11.2\\",\\"pid\\":1}"
frame = len(head).to_bytes(4, "big") + bytes(4) + head
os.write(1, (b"\\0" + len(frame).to_bytes(4, "big") + frame) * 2)
while True: os.write(1, bytes(65536))'""",
}
TURNS = '(until [ -e /tmp/turn ]; do sleep 0.05; done; exec cat /dev/zero) &\nexec $REAL "$@"'
"""Has a real worker, and floods its stream once it is told to."""
UNFILTERED = 'exec $REAL -I -S -c "$4" default'
"""Has a real worker, which is told to put no filter on itself."""

MUTE = "exec sleep 600"
ANOTHER = """exec $REAL -I -S -c 'import sys
%s
code = sys.argv.pop(1)
exec(code)' "$4" "$5"
"""
"""Has an interpreter that tells of itself what is not so."""
UNFIT = {
    "old": ('sys.version_info, sys.version = (3, 9, 2), "3.9.2 (default)"', "it is cpython 3.9.2"),
    "none": ('sys.implementation.name = "pypy"', f"it is pypy {images.PYTHON}"),
}


@pytest.fixture(scope="module")
def spoiled_engine() -> Iterator[Engine]:
    """An engine for this file alone: where it stops answering, no other test waits for it."""
    ask_for_engine()
    with private.running() as engine:
        with engine.client() as client:
            images.load(client, variants=False)
            unfit = {name: ANOTHER % lie for name, (lie, _) in UNFIT.items()}
            for name, script in {**HOSTILE, **unfit, "turns": TURNS, "unfiltered": UNFILTERED, "mute": MUTE}.items():
                images.load_with_python3(client, f"hostile:{name}", script)
        yield engine


@pytest.mark.parametrize("what", HOSTILE)
def test_an_image_that_writes_without_end_is_refused_and_stops_no_engine(
    spoiled_engine: Engine, environ: dict[str, str], what: str
) -> None:
    with jobs_on(spoiled_engine.url, environ) as jobs:
        ended = jobs.run("1", image=f"hostile:{what}")
        assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.START_FAILED)
        assert ended.message.startswith("The image's python3 wrote what no worker writes. Try --image with ")
    eventually_empty(spoiled_engine)


@pytest.mark.parametrize("what", UNFIT)
def test_a_python_that_can_not_run_jobs_is_named_beside_the_one_that_can(
    spoiled_engine: Engine, environ: dict[str, str], what: str
) -> None:
    with jobs_on(spoiled_engine.url, environ) as jobs:
        ended = jobs.run("1", image=f"hostile:{what}")
    assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert ended.message.startswith(f"The image's python3 can't run jobs: {UNFIT[what][1]}")
    assert ended.message.endswith(", and CPython 3.11 or newer is needed. Choose another --image.")
    eventually_empty(spoiled_engine)


@pytest.mark.parametrize(("wall", "seconds"), [(None, 60.0), (6.0, 20.0), (30.0, 30.0), (3600.0, 60.0)])
def test_a_worker_is_waited_for_as_long_as_a_job_may_run_within_bounds(wall: float | None, seconds: float) -> None:
    assert handshake.patience(wall) == seconds


def test_a_python_that_says_nothing_is_waited_for_no_longer_than_the_job_may_run(
    spoiled_engine: Engine, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "_LEAST_SECONDS", 0.5)
    with jobs_on(spoiled_engine.url, environ) as jobs:
        ended = jobs.run("1", image="hostile:mute", limits=ResourceLimits(wall_seconds=0.5))
    assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert ended.message.startswith("The container's worker was not ready after 0.5 s.")
    eventually_empty(spoiled_engine)


@pytest.fixture
def kept(spoiled_engine: Engine, environ: dict[str, str], tmp_path: Path) -> Iterator[Jobs]:
    """With containers that wait."""
    with jobs_on(spoiled_engine.url, environ, standby=tmp_path) as jobs:
        yield jobs


def test_a_waiting_container_that_writes_is_given_up_at_once(spoiled_engine: Engine, kept: Jobs) -> None:
    assert kept.outcome(kept.submit("1", image="hostile:turns")) == "completed"
    pool = kept.manager.runner("docker")._pool  # type: ignore[attr-defined]
    [waiting] = until(lambda: not pool._coming and pool._waiting, "a container waits")
    until(lambda: len(containers(spoiled_engine)) == 1, "the other is gone")
    with spoiled_engine.client() as client:
        first = client.api.inspect_container(waiting.box.id)["State"]["Pid"]
    Path(f"/proc/{first}/root/tmp/turn").touch()  # past the engine, which tells nobody of it
    eventually_empty(spoiled_engine)
    assert not pool._waiting
    assert kept.outcome(kept.submit("2", image="hostile:turns")) == "completed"


def test_an_image_that_puts_no_filter_on_its_worker_is_under_the_engines_own(
    spoiled_engine: Engine, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attack(tmp_path, monkeypatch) as made, filtered_jobs_on(spoiled_engine, environ) as jobs:
        options = ContainerOptions(image="hostile:unfiltered")
        outputs = ("table", "filters")
        job, events = jobs.run(f"{made.code}\n{FILTERS}", container=options, outputs=outputs, profile=Profile.UNTRUSTED)
        assert job.status is JobStatus.COMPLETED, (job.message, text(events, "stderr"))
        assert jobs.value(job, "filters") == ["1"]
        others = ("packet socket", "hypervisor's socket", "kernel's cryptography")
        assert jobs.value(job, "table") == {**made.table, **dict.fromkeys(others, "EPERM")}


def test_no_filter_lets_through_what_the_other_refuses() -> None:
    looked_at = {"clone", "clone3", "socket", "socketpair"}
    assert set(syscalls.ALLOWED).isdisjoint({*seccomp.REFUSED, *looked_at})
    assert len(syscalls.ALLOWED) == len(set(syscalls.ALLOWED))

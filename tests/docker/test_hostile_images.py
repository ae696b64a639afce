"""Images whose `python3` is something else: what they write never fills a stream that the engine has to empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodetool_jupyter.jobs import JobStatus, Reason
from tests.docker.faulty import Jobs, containers, eventually_empty, jobs_on
from tests.engine import images, private
from tests.engine.private import Engine, until
from tests.engine.shared import ask_for_engine

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


@pytest.fixture(scope="module")
def spoiled_engine() -> Iterator[Engine]:
    """An engine for this file alone: where it stops answering, no other test waits for it."""
    ask_for_engine()
    with private.running() as engine:
        with engine.client() as client:
            images.load(client, variants=False)
            for name, script in {**HOSTILE, "turns": TURNS}.items():
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
        client.containers.get(waiting.box.id).exec_run(["touch", "/tmp/turn"])
    eventually_empty(spoiled_engine)
    assert not pool._waiting
    assert kept.outcome(kept.submit("2", image="hostile:turns")) == "completed"

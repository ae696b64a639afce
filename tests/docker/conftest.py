"""A manager whose jobs run in containers; the engine's own check follows, that nothing is left there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker.jobs import Jobs, jobs_on
from tests.engine.private import Engine


@pytest.fixture
def jobs(engine: Engine, environ: dict[str, str]) -> Iterator[Jobs]:
    """With `ENV=test`: no container waits."""
    with jobs_on(engine, environ) as found:
        yield found

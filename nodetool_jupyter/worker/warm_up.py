"""What a worker does ahead while it waits for its job: all that every job begins with, and what many need."""

from __future__ import annotations

from select import select

from . import streams, wire
from .execute import Cell, attempt, attempt_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_AT_ONCE_SECONDS = 0.05


def use_the_wait(channel: int) -> None:
    """Do first what every job needs, while its parent hears that we are ready; then the rest if there is no job yet.

    A container that was made for a job has it at once. Each further step is the last when something has arrived.
    """
    _run_site()
    seconds = _AT_ONCE_SECONDS
    for step in _STEPS:
        if select([channel], [], [], seconds)[0]:
            return
        step()
        seconds = 0.0


def _run_site() -> None:
    """Take site packages; what these print is kept for the job. Where they fail, they do so once more in the job."""
    import site

    streams.keep()
    attempt_all(site.main)


def _touch() -> None:
    """Do something like a job, whose first steps in a process are slow."""
    import json

    json.loads(wire.dumps({"type": "run", "code": "é"}))
    namespace: dict[str, object] = {}
    Cell("import sys\nfor n in range(2): f'{n}'\n1 + 1", "<warm>").run(namespace)


def _import_much() -> None:
    """What a job's failure needs, and with it what most code imports first."""
    from . import tracebacks  # noqa: F401


def _import_pickles() -> None:
    from . import pickled  # noqa: F401

    attempt(__import__, "cloudpickle")


_STEPS: tuple[Callable[[], object], ...] = (_touch, _import_much, _import_pickles)

"""What a worker does ahead while it waits for its job: all that every job begins with, and what many need."""

from __future__ import annotations

from select import select

from . import streams
from .execute import Cell, attempt, attempt_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def use_the_wait(channel: int) -> None:
    """Step by step, until something arrives on the channel."""
    for step in _STEPS:
        if select([channel], [], [], 0)[0]:
            return
        step()


def _run_site() -> None:
    """Take site packages; what these print is kept for the job. Where they fail, they do so once more in the job."""
    import site

    streams.keep()
    attempt_all(site.main)


def _touch() -> None:
    """Do something like a job, whose first steps in a process are slow."""
    from json import dumps, loads

    loads(dumps({"type": "run", "code": "é"}, ensure_ascii=False))
    namespace: dict[str, object] = {}
    Cell("import sys\nfor n in range(2): f'{n}'\n1 + 1", "<warm>").run(namespace)


def _import_rest() -> None:
    from . import pickled, tracebacks  # noqa: F401


def _import_cloudpickle() -> None:
    attempt(__import__, "cloudpickle")


_STEPS: tuple[Callable[[], object], ...] = (_run_site, _touch, _import_rest, _import_cloudpickle)

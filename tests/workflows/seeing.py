"""What a test sees of a job: its events, by kind, and as they come."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from nodetool_jupyter.events import (
    AnyEvent,
    Notification,
    Stream,
)
from nodetool_jupyter.jobs import Job
from nodetool_jupyter.manager import JobExecutionManager

HANG_GUARD_SECONDS = 60.0
Run = Callable[..., tuple[Job, list[AnyEvent]]]
Submit = Callable[..., Job]


def text(events: list[AnyEvent], name: str = "stdout") -> str:
    return "".join(event.text for event in events if isinstance(event, Stream) and event.name == name)


def notes(events: list[AnyEvent], code: str) -> list[str]:
    return [event.content for event in events if isinstance(event, Notification) and event.code == code]


def of(events: list[AnyEvent], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


class Seen:
    """A job's events as they come, and a way to wait for one."""

    def __init__(self, manager: JobExecutionManager, job: Job) -> None:
        self.events: list[AnyEvent] = []
        self._news = threading.Condition()
        manager.subscribe(job.id, self._hear)

    def _hear(self, batch: Any) -> None:
        with self._news:
            self.events += batch
            self._news.notify_all()

    def wait(self, wanted: Callable[[AnyEvent], bool], count: int = 1) -> AnyEvent:
        def found() -> list[AnyEvent]:
            return [event for event in self.events if wanted(event)]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, HANG_GUARD_SECONDS), self.events
            return found()[count - 1]

    def printed(self, line: str, name: str = "stdout") -> None:
        """Wait for a text in one of the streams: `print` writes its words and the end apart, and they may come so."""
        self.wait(lambda event: isinstance(event, Stream) and line in text(self.events, name))


def end(manager: JobExecutionManager, job: Job) -> tuple[Job, list[AnyEvent]]:
    return manager.wait(job.id, HANG_GUARD_SECONDS), manager.events(job.id)

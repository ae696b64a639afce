"""The thread that shows jobs: each in turn, ten times a second at most, a hundred over all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from ..events import AnyEvent
from ..following import ends
from ..jobs import JobStatus
from ..loop import LoopThread
from ..view import View, fold_all

_INTERVAL_SECONDS = 0.1
_SECONDS_PER_JOB = 0.01
_REPEAT_SECONDS = 1.0
_GIVE_UP_SECONDS = 2.0


class Face(Protocol):
    """How the state of a job is shown. All methods are called on the painter's thread.

    clock_seconds: how often it wants to be painted even if nothing happened; 0 for never.
    """

    clock_seconds: float

    def hide(self) -> None:
        """Make room for output, where both share a line."""
        ...

    def paint(self, view: View) -> None:
        """Show the present state."""
        ...

    def finish(self, view: View) -> None:
        """Show the last state."""
        ...

    def repeat(self, view: View) -> None:
        """Show the last state once more, for those who missed it."""
        ...


class Output(Protocol):
    """Where the output of a job goes."""

    def publish(self, events: Sequence[AnyEvent]) -> Sequence[AnyEvent]:
        """Show these; what comes back is to be shown the next time."""
        ...


class Painter:
    """One for all jobs of a kernel."""

    def __init__(self) -> None:
        self._loop = LoopThread("nodetool-painter")
        self._loop.start()
        self.active = 0

    @property
    def interval_seconds(self) -> float:
        """The shortest time between two paintings of one job."""
        return max(_INTERVAL_SECONDS, self.active * _SECONDS_PER_JOB)

    def post(self, callback: Callable[[], object]) -> None:
        """Call on this thread, soon; from any thread."""
        self._loop.post(callback)

    def later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call on this thread after a while; returns what takes it back."""
        return self._loop.later(seconds, callback)

    def close(self) -> None:
        """Do what was posted, and end."""

        async def nothing() -> None:
            return None

        self._loop.finish(nothing)


class Canvas:
    """One job's place in the notebook.

    `hear` takes its events on the manager's thread and returns at once. `done` is set when the last
    one was shown, `woken` then too, or when the person detaches the cell. `view` is what was folded so far.
    `waits` tells what a queued job waits for; `leave` ends the hearing, `unwatch` what `tell` is told;
    `part` is for a cell that waits no more while the job goes on.
    """

    def __init__(self, painter: Painter, view: View, face: Face, output: Output) -> None:
        self.view = view
        self.face = face
        self.done = threading.Event()
        self.woken = threading.Event()
        self._painter = painter
        self._output = output
        self._events: deque[AnyEvent] = deque()
        self._held: list[AnyEvent] = []
        self._pending = self._urgent = False
        self._disarm: Callable[[], None] | None = None
        self._last_painted = 0.0
        self.waits: Callable[[], str] = lambda: ""
        self.leave: Callable[[], None] = lambda: None
        self.unwatch: Callable[[], None] = lambda: None
        self.part: Callable[[], None] = self.abandon
        painter.active += 1
        if face.clock_seconds:
            painter.later(face.clock_seconds, self._strike)

    def hear(self, events: Sequence[AnyEvent]) -> None:
        """Take events, in order; from the manager's thread. The job's last one is shown without delay."""
        self._events.extend(events)
        self._urgent = self._urgent or ends(events[-1])
        if not self._pending or self._urgent:
            self._pending = True
            self._painter.post(self._arm)

    def tell(self, trouble: str) -> None:
        """Show why the store can't be written, or with "" that it can; from the manager's thread."""
        self._painter.post(lambda: self._tell(trouble))

    def abandon(self) -> None:
        """Show nothing more; what shares a line with others is gone when this returns. Not on the painter's thread."""
        self.leave()
        self._painter.post(self._give_up)
        self.done.wait(_GIVE_UP_SECONDS)

    def _give_up(self) -> None:
        if not self.done.is_set():
            self.face.hide()
            self._end()

    def _tell(self, trouble: str) -> None:
        if not self.done.is_set():
            self.view = replace(self.view, trouble=trouble)
            self.face.paint(self.view)

    def _arm(self) -> None:
        wait = self._last_painted + self._painter.interval_seconds - time.monotonic()
        if self._urgent or wait <= 0:
            self._turn()
        elif self._disarm is None:
            self._disarm = self._painter.later(wait, self._turn)

    def _turn(self) -> None:
        if self._disarm is not None:
            self._disarm()
            self._disarm = None
        self._pending = self._urgent = False
        if self.done.is_set():
            return
        self._last_painted = time.monotonic()
        held, self._held = self._held, []
        events = [self._events.popleft() for _ in range(len(self._events))]
        self.view = fold_all(self.view, events)
        if self.view.status is JobStatus.QUEUED:
            self.view = replace(self.view, waits=self.waits())
        ended = self.view.status.final
        try:
            self.face.hide()
            self._held = list(self._output.publish([*held, *events]))
            if not ended or self._held:
                self.face.paint(self.view)
            else:
                self.face.finish(self.view)
        finally:
            self._go_on(ended=ended)

    def _go_on(self, *, ended: bool) -> None:
        if self._held:
            self._pending = True
            self._painter.post(self._arm)
        elif ended:
            self._end()
            self._painter.later(_REPEAT_SECONDS, lambda: self.face.repeat(self.view))

    def _end(self) -> None:
        self._painter.active -= 1
        self.unwatch()
        self.done.set()
        self.woken.set()

    def _strike(self) -> None:
        if not self.done.is_set():
            self.face.paint(self.view)
            self._painter.later(self.face.clock_seconds, self._strike)

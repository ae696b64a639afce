"""The shape of what a person sees of one job."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..events import Exit, Isolation, Severity, StreamName
from ..jobs import JobStatus, Profile, Reason, ResourceLimits, Usage
from .lines import Lines

_LEAST_SECONDS = 0.5


class Bar(Struct, frozen=True):
    """A progress bar. `since` and `base`: when it was first heard of, and how far it was then."""

    node_id: str
    bar: str
    progress: float
    total: float | None
    label: str = ""
    unit: str = ""
    note: str = ""
    depth: int = 0
    closed: bool = False
    since: float = 0.0
    base: float = 0.0
    ts: float = 0.0

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; `None` when the total is not known."""
        return min(1.0, max(0.0, self.progress / self.total)) if self.total else None


class Note(Struct, frozen=True):
    """A sentence for the person."""

    content: str
    severity: Severity = "warning"
    code: str = ""


class Record(Struct, frozen=True):
    """What somebody logged, and under which logger's name."""

    severity: Severity
    name: str
    content: str


class Text(Struct, frozen=True):
    """Written text, up to the next thing that was shown."""

    name: StreamName
    lines: Lines


class Shown(Struct, frozen=True):
    """A MIME bundle that was shown; `result`: the value of the last expression."""

    data: dict[str, Any]
    metadata: dict[str, Any] = {}
    display_id: str = ""
    result: bool = False


class Returned(Struct, frozen=True):
    """A value or a file that came back, by name."""

    name: str
    type_name: str
    bytes: int | None = None


class View(Struct, frozen=True):
    """Everything that is shown of a job, as of event `seq` at `ts`.

    `outputs`: what it wrote and showed, in order. `tail`: the last lines of both streams. `records`: the
    last of `logging`, which its handlers may have written to a stream too. `history`: memory in bytes, at
    the latest measurements. `expected_seconds`: how long the same code took the last time.
    `more_bars`: there are bars for which there is no room. `trouble`: why the store can't be written, for which the
    job waits. `waits`: what it waits for while it is queued. Of these two there is no event.
    """

    job_id: str = ""
    name: str = ""
    place: str = ""
    runner: str = ""
    profile: Profile = Profile.DEFAULT
    limits: ResourceLimits = ResourceLimits()
    expected_seconds: float | None = None
    seq: int = 0
    ts: float = 0.0
    status: JobStatus = JobStatus.QUEUED
    started: float | None = None
    duration_seconds: float | None = None
    message: str = ""
    reason: Reason | None = None
    traceback: str = ""
    bars: tuple[Bar, ...] = ()
    more_bars: bool = False
    tail: Lines = Lines()
    outputs: tuple[Text | Shown, ...] = ()
    clear_next: bool = False
    returned: tuple[Returned, ...] = ()
    records: tuple[Record, ...] = ()
    notes: tuple[Note, ...] = ()
    usage: Usage = Usage()
    history: tuple[int, ...] = ()
    isolation: Isolation | None = None
    exit: Exit | None = None
    trouble: str = ""
    waits: str = ""

    @property
    def cause(self) -> str:
        """Why it ended as it did, without the remedy."""
        return self.message.partition(" Rerun with ")[0]

    @property
    def remedy(self) -> str:
        """What to do about it, such as "Rerun with --memory 4g."; or ""."""
        found = self.message.partition(" Rerun with ")
        return f"Rerun with {found[2]}" if found[1] else ""


def elapsed_seconds(view: View, now: float) -> float | None:
    """How long the job runs or ran; `None` before its start."""
    if view.duration_seconds is not None:
        return view.duration_seconds
    if view.started is None:
        return None
    return max(0.0, (view.ts if view.status.final else now) - view.started)


def remaining_seconds(view: View, now: float) -> float | None:
    """How long it will still take, by its own outermost bar, else by the last run of the same code."""
    if view.status is not JobStatus.RUNNING:
        return None
    for bar in sorted(view.bars, key=lambda bar: bar.depth):
        if bar.closed or not bar.total:
            continue
        seconds, done = bar.ts - bar.since, bar.progress - bar.base
        if seconds >= _LEAST_SECONDS and done > 0:
            return max(0.0, (bar.total - bar.progress) * seconds / done - (now - bar.ts))
    elapsed = elapsed_seconds(view, now)
    if view.expected_seconds is None or elapsed is None or elapsed >= view.expected_seconds:
        return None
    return view.expected_seconds - elapsed

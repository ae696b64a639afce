"""Folding a job's events into what a person sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from .. import events as ev
from ..jobs import Job, JobStatus, Reason, Usage
from .lines import Lines, write
from .model import Bar, Note, Record, Returned, Shown, Text, View

_MOST_BARS = 40
_MOST_CLOSED_BARS = 8
_MOST_NOTES = 20
_MOST_OUTPUTS = 200
_MOST_RECORDS = 100
_MOST_RETURNED = 100
_MOST_SAMPLES = 60


def begin(job: Job, *, expected_seconds: float | None = None) -> View:
    """The view of a job before its first event."""
    request = job.request
    return View(
        job_id=job.id,
        name=request.name,
        place=request.work.filename.strip("<>"),
        runner=request.runner,
        profile=request.profile,
        limits=request.limits,
        expected_seconds=expected_seconds,
    )


def fold_all(view: View, events: Iterable[ev.AnyEvent]) -> View:
    """The view after several events."""
    for event in events:
        view = fold(view, event)
    return view


def fold(view: View, event: ev.AnyEvent) -> View:
    """The view after one more event; an event that was folded in already changes nothing."""
    if event.seq and event.seq <= view.seq:
        return view
    view = _FOLDS[type(event)](view, event)
    return replace(view, seq=event.seq or view.seq, ts=event.ts or view.ts)


def _job_update(view: View, event: ev.JobUpdate) -> View:
    status = JobStatus(event.status)
    started = view.started
    if started is None and status in (JobStatus.STARTING, JobStatus.RUNNING):
        started = event.ts
    return replace(
        view,
        status=status,
        started=started,
        duration_seconds=event.duration,
        message=event.message or view.message if not status.final else event.message,
        reason=Reason(event.reason) if event.reason else None,
        traceback=event.traceback or "",
    )


def _progress(view: View, event: ev.NodeProgress) -> View:
    key = (event.node_id, event.bar)
    bars = list(view.bars)
    place = next((n for n, bar in enumerate(bars) if (bar.node_id, bar.bar) == key), None)
    old = bars[place] if place is not None else None
    begins_anew = old is None or event.progress < old.base
    new = Bar(
        event.node_id,
        event.bar,
        event.progress,
        event.total,
        label=event.label or (old.label if old else ""),
        unit=event.unit or (old.unit if old else ""),
        note=event.chunk,
        depth=event.depth,
        closed=event.closed,
        since=event.ts if begins_anew or old is None else old.since,
        base=event.progress if begins_anew or old is None else old.base,
        ts=event.ts,
    )
    if place is not None:
        bars[place] = new
    else:
        bars.append(new)
    return _with_room(view, bars, new)


def _with_room(view: View, bars: list[Bar], newest: Bar) -> View:
    """Inner bars go when they are done, old ones that are done when there are many, new ones when there is no room."""
    if newest.closed and newest.depth > 0:
        bars.remove(newest)
    closed = [bar for bar in bars if bar.closed]
    for bar in closed[: max(0, len(closed) - _MOST_CLOSED_BARS)]:
        bars.remove(bar)
    if len(bars) <= _MOST_BARS:
        return replace(view, bars=tuple(bars))
    return replace(view, more_bars=True)


def _stream(view: View, event: ev.Stream) -> View:
    view = _cleared(view)
    tail = write(view.tail, event.text)
    last = view.outputs[-1] if view.outputs else None
    if isinstance(last, Text) and last.name == event.name:
        outputs = (*view.outputs[:-1], replace(last, lines=write(last.lines, event.text)))
    else:
        outputs = (*view.outputs, Text(event.name, write(Lines(), event.text)))
    return replace(view, tail=tail, outputs=outputs[-_MOST_OUTPUTS:])


def _display(view: View, event: ev.Display) -> View:
    new = Shown(event.data, event.metadata, event.display_id, event.result)
    if event.update:
        outputs = tuple(
            replace(new, result=one.result) if isinstance(one, Shown) and one.display_id == event.display_id else one
            for one in view.outputs
        )
        return replace(view, outputs=outputs)
    view = _cleared(view)
    return replace(view, outputs=(*view.outputs, new)[-_MOST_OUTPUTS:])


def _clear(view: View, event: ev.ClearOutput) -> View:
    return replace(view, clear_next=True) if event.wait else replace(view, outputs=(), clear_next=False)


def _cleared(view: View) -> View:
    return replace(view, outputs=(), clear_next=False) if view.clear_next else view


def _log(view: View, event: ev.LogUpdate) -> View:
    record = Record(event.severity, event.node_name, event.content)
    return replace(view, records=(*view.records, record)[-_MOST_RECORDS:])


def _note(view: View, event: ev.Notification) -> View:
    note = Note(event.content, event.severity, event.code)
    return replace(view, notes=(*view.notes, note)[-_MOST_NOTES:])


def _returned(view: View, event: ev.OutputUpdate) -> View:
    size = event.metadata.get("bytes")
    one = Returned(event.output_name, event.output_type, size if isinstance(size, int) else None)
    others = [each for each in view.returned if each.name != one.name]
    return replace(view, returned=(*others, one)[-_MOST_RETURNED:])


def _usage(view: View, event: ev.UsageUpdate) -> View:
    peak = max(event.peak_memory_bytes, event.memory_bytes, view.usage.peak_memory_bytes)
    usage = Usage(event.memory_bytes, peak, event.cpu_seconds, event.processes)
    history = (*view.history, event.memory_bytes)[-_MOST_SAMPLES:] if event.memory_bytes else view.history
    return replace(view, usage=usage, history=history)


def _isolation(view: View, event: ev.Isolation) -> View:
    return replace(view, isolation=event)


def _exit(view: View, event: ev.Exit) -> View:
    return replace(view, exit=event)


_FOLDS: dict[type, Callable[..., View]] = {
    ev.JobUpdate: _job_update,
    ev.NodeProgress: _progress,
    ev.Stream: _stream,
    ev.Display: _display,
    ev.ClearOutput: _clear,
    ev.LogUpdate: _log,
    ev.Notification: _note,
    ev.OutputUpdate: _returned,
    ev.UsageUpdate: _usage,
    ev.Isolation: _isolation,
    ev.Exit: _exit,
}

"""What of a job's reports is kept: text that goes on is joined, and a log that grows too long is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from . import events as ev
from .quantities import format_size

_JOINED_CHARACTERS = 64 << 10
_SMALL_BYTES = 128


class KeptLog:
    """Counts what a job's log holds, up to `max_bytes` and `max_events`; then one notification stands for the rest.

    `add` and `extend` take events, `take` gives what has come since the last time.
    """

    def __init__(self, max_bytes: int, *, max_events: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._max_events = max_events
        self._count = 0
        self._bytes = 0
        self._cut = False
        self._events: list[ev.AnyEvent] = []
        self._name: ev.StreamName = "stdout"
        self._texts: list[str] = []
        self._characters = 0

    def extend(self, events: Sequence[ev.AnyEvent]) -> None:
        """Keep events in their order, as long as the log may grow."""
        if self._max_events is None and ev.Stream not in map(type, events):
            size = sum(map(_size, events))
            if self._bytes + size <= self._max_bytes:
                self._flush()
                self._bytes += size
                self._count += len(events)
                self._events += events
                return
        for event in events:
            self.add(event)

    def add(self, event: ev.AnyEvent) -> None:
        """Keep an event, as long as the log may grow."""
        self._bytes += _size(event)
        too_many = self._max_events is not None and self._count >= self._max_events
        if self._cut or too_many or self._bytes > self._max_bytes:
            if not self._cut:
                self._cut = True
                most = f"{self._max_events} events" if too_many else format_size(self._max_bytes)
                self.put(ev.Notification(content=f"Output beyond {most} is not kept.", code="NT-O01"))
        elif isinstance(event, ev.Stream):
            self._join(event)
        else:
            self.put(event)

    def put(self, event: ev.AnyEvent) -> None:
        """Keep an event whatever the log's length."""
        self._flush()
        self._count += 1
        self._events.append(event)

    def take(self) -> list[ev.AnyEvent]:
        """What has come since the last time."""
        self._flush()
        taken, self._events = self._events, []
        return taken

    def _join(self, event: ev.Stream) -> None:
        if self._texts and (event.name != self._name or self._characters > _JOINED_CHARACTERS):
            self._flush()
        self._name = event.name
        self._texts.append(event.text)
        self._characters += len(event.text)

    def _flush(self) -> None:
        if self._texts:
            self._count += 1
            self._events.append(ev.Stream(name=self._name, text="".join(self._texts)))
            self._texts, self._characters = [], 0


def _size(event: ev.AnyEvent) -> int:
    """About how many bytes an event takes in the log."""
    measure = _SIZES.get(type(event))
    if measure is not None:
        return measure(event)
    texts = (getattr(event, name) for name in event.__struct_fields__)
    return _SMALL_BYTES + sum(len(text) for text in texts if isinstance(text, str))


def _size_of_display(event: ev.Display) -> int:
    return sum(len(part) if isinstance(part, str) else len(msgspec.json.encode(part)) for part in event.data.values())


_SIZES: dict[type, Callable[[Any], int]] = {  # of those that come in floods
    ev.Stream: lambda event: len(event.text),
    ev.LogUpdate: lambda event: _SMALL_BYTES + len(event.content) + len(event.node_name),
    ev.Display: _size_of_display,
}

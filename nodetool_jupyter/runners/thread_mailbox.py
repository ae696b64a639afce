"""From a job's thread to the manager's loop: reports in order, woken once per batch, bounded."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from .. import events as ev
from ..frames import FilePart, Raised, Report, Returned, Value
from ..worker.channel import pieces
from ..worker.wire import strict

_MOST_WAITING = 1 << 20
_SMALL_BYTES = 128
_LOOK_AGAIN_SECONDS = 0.1
_LINE_SECONDS = 0.002
_KINDS: dict[str, Callable[..., Report]] = {
    "stream": ev.Stream,
    "display": ev.Display,
    "clear_output": ev.ClearOutput,
    "node_progress": ev.NodeProgress,
    "log_update": ev.LogUpdate,
    "notification": ev.Notification,
    "value": Value,
    "file": FilePart,
    "returned": Returned,
    "raised": Raised,
}


class Mailbox:
    """What a job's threads report, as its `Outlet`; read on the manager's loop. `on_end` is called there at the end.

    A writer waits while more than 1 MiB has not been read; never on the loop's own thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._loop_thread = threading.get_ident()
        self._waiting: deque[Report | tuple[str, str]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._news = asyncio.Event()
        self._room = threading.Event()
        self._room.set()
        self._told = False
        self._held = False
        self._closed = False

    def write(self, name: str, text: str) -> None:
        """Queue text."""
        self._put((name, text), len(text))

    def emit(self, report: dict[str, Any], body: Any = None) -> None:
        """Queue one report."""
        if body is not None:
            report = {**report, "body": b"".join(body)} if report["type"] == "file" else report
        made = _made(report)
        if isinstance(made, Value):  # the thread's own object, which takes no room
            self._put(msgspec.structs.replace(made, body=body), _SMALL_BYTES)
        else:
            self._put(made, _SMALL_BYTES + sum(map(_size, report.values())))

    def emit_last(self, report: dict[str, Any], before: Sequence[Report]) -> None:
        """Queue the report that nothing follows."""
        self.post(*before, _made(report), last=True)

    def post(self, *reports: Report, last: bool = False) -> None:
        """Queue reports that are made already; nothing can be queued after the `last`."""
        with self._lock:
            if self._closed:
                return
            self._waiting.extend(reports)
            self._closed = last
            wake = self._must_wake() and not last
        if last:
            self._call_loop(self._end)
        elif wake:
            self._wake()

    def hold(self) -> None:
        """Wake nobody any more before the last report: it follows at once."""
        self._held = True

    def flush(self) -> None:
        """Nothing waits here for more."""

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back on the manager's loop."""
        self._call_loop(self._loop.call_later, seconds, callback)

    async def batches(self) -> AsyncIterator[Sequence[Report]]:
        """Everything that was reported, in order; ends after the last."""
        while True:
            if self._ends_within_a_line() and not self._closed:
                await asyncio.sleep(_LINE_SECONDS)  # `print` writes the end of its line apart
            with self._lock:
                taken, self._waiting = self._waiting, deque()
                self._bytes, self._told = 0, False
                closed = self._closed
            self._room.set()
            if taken:
                yield _joined(taken)
            elif closed:
                self._on_end()
                return
            else:
                await self._news.wait()
                self._news.clear()

    def abandon(self) -> None:
        """Drop what comes from now on; nobody reads it any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
        self._room.set()

    def _ends_within_a_line(self) -> bool:
        last = self._waiting[-1] if self._waiting else None
        return isinstance(last, tuple) and not last[1].endswith("\n")

    def _put(self, item: Report | tuple[str, str], size: int) -> None:
        with self._lock:
            if self._closed:
                return
            self._waiting.append(item)
            self._bytes += size
            full = self._bytes > _MOST_WAITING
            wake = self._must_wake() or full  # whoever waits for room must not wait for the end
            if full:
                self._room.clear()
        if wake:
            self._wake()
        if full:
            self._wait_for_room()

    def _must_wake(self) -> bool:
        told, self._told = self._told, True
        return not (told or self._held)

    def _wake(self) -> None:
        self._call_loop(self._news.set)

    def _end(self) -> None:
        self._news.set()
        self._on_end()

    def _call_loop(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the manager was closed
            self.abandon()

    def _wait_for_room(self) -> None:
        if threading.get_ident() != self._loop_thread:
            while not self._room.wait(_LOOK_AGAIN_SECONDS):
                if self._loop.is_closed():
                    return


def _made(report: dict[str, Any]) -> Report:
    """The struct of a report."""
    fields = {name: _strict(value) for name, value in report.items() if name != "type"}
    return _KINDS[report["type"]](**fields)


def _joined(taken: deque[Report | tuple[str, str]]) -> list[Report]:
    """The reports, with text of one stream joined and cut to its largest piece."""
    reports: list[Report] = []
    text: list[str] = []
    stream = ""
    for item in (*taken, None):
        if text and not (isinstance(item, tuple) and item[0] == stream):
            reports.extend(ev.Stream(name=stream, text=piece) for piece in pieces(strict("".join(text))))  # type: ignore[arg-type]  # one of the two
            text = []
        if isinstance(item, tuple):
            stream = item[0]
            text.append(item[1])
        elif item is not None:
            reports.append(item)
    return reports


def _size(value: Any) -> int:
    """About what a field of a report takes, above its place."""
    if isinstance(value, str | bytes):
        return len(value)
    return sum(map(_size, value.values())) if isinstance(value, dict) else 0


def _strict(value: Any) -> Any:
    """The value with every text in it made strict."""
    if isinstance(value, str):
        return strict(value)
    if isinstance(value, dict):
        return {strict(key): _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list) else value

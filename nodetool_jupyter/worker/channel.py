"""A worker's end of the private channel: frames in program order, whatever interrupts the code that sends them.

A signal handler may raise, or print, in the middle of a write. So what is to be sent stands in one queue, and how
much of it was sent is counted inside the same C call as the write: an exception never tears a frame, a handler's
own output queues up behind it, and nothing is lost or sent twice.
"""

from __future__ import annotations

import os
from _collections import deque  # type: ignore[import-not-found]  # `collections` itself costs an import
from _thread import RLock, allocate_lock, start_new_thread
from time import monotonic, sleep

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .current import Report
    from .wire import Buffer

TEXT_BYTES = 64 << 10
_COALESCE_SECONDS = 0.010
_PROMPT_SENDS = 16
_MOST_AT_ONCE = 1 << 20
_DESCRIPTORS = {"stdout": 1, "stderr": 2}


class _Text:
    """Text of one stream."""

    __slots__ = ("name", "parts")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.parts = [text]


class _Gathered:
    """Reports, each as JSON, and text that wait for more; nothing is added once it is closed."""

    __slots__ = ("closed", "parts")

    def __init__(self, part: str | _Text) -> None:
        self.parts = [part]
        self.closed = False


class _Bytes:
    """A part of the stream that is ready to be sent, and where it begins in the stream once that is known."""

    __slots__ = ("start", "view")

    def __init__(self, buffer: Buffer) -> None:
        self.view = memoryview(buffer).cast("B")
        self.start = -1


def pieces(text: str) -> Iterator[str]:
    """Text cut so that no piece is larger than 64 KiB."""
    step = TEXT_BYTES if text.isascii() else TEXT_BYTES // 4
    for start in range(0, len(text), step):
        yield text[start : start + step]


class Channel:
    """Sends frames on a descriptor; blocks while the parent does not read. Safe from any thread.

    When the descriptor was closed or replaced by the job's own code, everything is dropped: the parent sees
    the end of the channel and decides. In a forked child, text goes to descriptors 1 and 2, the rest nowhere.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = self._identify()
        self._lock = RLock()
        self._queue: deque[_Gathered | _Bytes] = deque()
        self._counts: deque[int] = deque([0])
        self._sending = allocate_lock()
        self._waiting = 0
        self._window, self._prompt = 0.0, 0
        self._bell = allocate_lock()
        self._bell.acquire()
        self._timer_runs = False
        self._calls: list[tuple[float, Callable[[], None]]] = []
        self._gone = self._forked = False

    def write(self, name: str, text: str) -> None:
        """Send text; lines at once as long as they are few, else gathered for 10 ms."""
        if self._forked:
            self._write_plainly(name, text)
            return
        try:
            with self._lock:
                tail = self._queue[-1] if self._queue else None
                last = tail.parts[-1] if type(tail) is _Gathered else None
                same = last if type(last) is _Text and last.name == name else None
                # a handler may run at any call, so there is none between the look at `closed` and the append
                if type(tail) is not _Gathered or tail.closed:
                    self._queue.append(_Gathered(_Text(name, text)))
                elif same is not None:
                    same.parts.append(text)
                else:
                    tail.parts.append(_Text(name, text))
                self._waiting += len(text)
                if self._waiting >= TEXT_BYTES or ("\n" in text and self._may_send_now()):
                    self._send()
        finally:  # a send that was interrupted, or that had begun when a handler came here, may leave something
            if self._queue:
                self._ring()

    def emit(self, report: Report, body: Sequence[Buffer] | None = None) -> None:
        """Send one frame after everything that was written before; at once as long as frames are few."""
        if self._forked or self._gone:
            return
        header = wire.dumps(report)
        frame = [] if body is None else list(map(_Bytes, wire.frame(header, body)))
        if len(header) > TEXT_BYTES:
            wire.frame(header)  # raises here what is too large
        try:
            with self._lock:
                if frame:
                    self._queue.extend(frame)
                elif type(tail := self._queue[-1] if self._queue else None) is _Gathered and not tail.closed:
                    tail.parts.append(header)
                else:
                    self._queue.append(_Gathered(header))
                self._waiting += len(header)
                if frame or self._waiting >= TEXT_BYTES or self._may_send_now():  # a body may change after this call
                    self._send()
        finally:
            if self._queue:
                self._ring()

    def flush(self) -> None:
        """Send what waits."""
        if not self._forked:
            with self._lock:
                self._send()

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once on the timer's thread."""
        self._calls.append((monotonic() + seconds, callback))
        self._ring()

    def read(self) -> tuple[Report, memoryview] | None:
        """The next frame from the parent; `None` when the parent is gone."""
        try:
            return wire.read(self._fd)
        except (OSError, wire.WireError):
            return None

    @property
    def replaced(self) -> bool:
        """Whether the job's own code closed the descriptor or put something else there."""
        return self._identify() != self._identity

    def close(self) -> None:
        """Send what waits and end the stream."""
        self.flush()
        self._gone = True
        if not self._forked and not self.replaced:
            os.close(self._fd)

    def after_fork(self) -> None:
        """Leave the channel to the process that owns it; called in a forked child."""
        self._forked = True
        self._lock, self._sending = RLock(), allocate_lock()
        self._queue.clear()
        if not self.replaced:
            os.close(self._fd)

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = os.fstat(self._fd)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _may_send_now(self) -> bool:
        now = monotonic()
        if now - self._window >= _COALESCE_SECONDS:
            self._window, self._prompt = now, 0
        self._prompt += 1
        return self._prompt <= _PROMPT_SENDS

    def _send(self) -> None:
        """Send all that is queued; the lock is held. Returns at once inside a handler that interrupted a send."""
        if self._sending.locked():
            return
        with self._sending:  # a lock, since an exception may hit a `finally` but not the end of a `with`
            self._waiting = 0
            while self._queue and not self._gone:
                self._advance(self._queue[0])

    def _advance(self, head: _Gathered | _Bytes) -> None:
        if type(head) is _Gathered:
            head.closed = True
            self._queue[0] = head = _Bytes(b"".join(_frames(head.parts)))
        assert type(head) is _Bytes
        if len(self._counts) > 64:
            self._counts = deque([sum(self._counts)])
        if head.start < 0:
            head.start = sum(self._counts)
        sent = sum(self._counts) - head.start
        if sent >= head.view.nbytes:
            self._queue.popleft()
        elif self.replaced:
            self._lose()
        else:
            self._write(head.view[sent : sent + _MOST_AT_ONCE])

    def _write(self, part: memoryview) -> None:
        try:
            # the count is kept by the call that wrote: no handler runs between the two
            self._counts.extend(map(os.write, (self._fd,), (part,)))
        except BlockingIOError:
            from select import select

            select([], [self._fd], [])
        except OSError:
            self._lose()

    def _lose(self) -> None:
        self._gone = True
        self._queue.clear()

    def _write_plainly(self, name: str, text: str) -> None:
        view = memoryview(text.encode("utf-8", "replace"))
        try:
            while view:
                view = view[os.write(_DESCRIPTORS[name], view) :]
        except OSError:
            return

    def _ring(self) -> None:
        if not self._timer_runs:
            self._timer_runs = True
            try:
                start_new_thread(self._run_timer, ())
            except RuntimeError:  # a limit on threads: what waits goes at once
                self._timer_runs = False
                self.flush()
                return
        if self._bell.locked():
            try:
                self._bell.release()
            except RuntimeError:  # another thread rang first
                return

    def _run_timer(self) -> None:
        while not self._forked:
            self._bell.acquire()
            while True:
                sleep(_COALESCE_SECONDS)
                now = monotonic()
                for call in [call for call in self._calls if call[0] <= now]:
                    self._calls.remove(call)
                    call[1]()
                self.flush()
                if not self._calls:
                    break


def _frames(parts: Sequence[str | _Text]) -> Iterator[Buffer]:
    """A frame for each report that is larger than 64 Ki characters, and one for as many others as that holds."""
    gathered: list[str] = []
    size = 0
    for report in _reports(parts):
        if gathered and size + len(report) > TEXT_BYTES:
            yield from wire.frame(_together(gathered))
            gathered, size = [], 0
        gathered.append(report)
        size += len(report)
    if gathered:
        yield from wire.frame(_together(gathered))


def _together(reports: Sequence[str]) -> str:
    return reports[0] if len(reports) == 1 else f"[{','.join(reports)}]"


def _reports(parts: Sequence[str | _Text]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
            continue
        for piece in pieces("".join(part.parts)):
            yield wire.dumps({"type": "stream", "name": part.name, "text": piece})

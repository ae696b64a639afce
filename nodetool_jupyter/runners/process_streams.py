"""The streams between the manager's loop and a job's process: only as much is read as is taken."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import math
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from typing import Literal, NamedTuple

from ..errors import ProtocolError
from ..events import Stream, UsageUpdate
from ..frames import Raised, Report, Returned, decode_frames
from ..worker import wire

_CHUNK = 512 << 10
_PIPE_BYTES = 1 << 20
_SO_SNDBUFFORCE = 32
_F_SETPIPE_SZ = 1031
_MOST_TEXT = 64 << 10
_TAIL = 8 << 10
DRAIN_SECONDS = 1.0
_MOST_LATE_SECONDS = 30.0
_TERMINAL = frozenset[type]((Returned, Raised))


class Streams(NamedTuple):
    """A job's streams: our end of its channel, the read ends of its stdout and stderr, and what the job gets."""

    channel: socket.socket
    pipes: list[int]
    given: list[int]


def make_streams() -> Streams:
    """New streams; the pipes as large as the kernel lets us have them. `OSError` when too many are open."""
    with ExitStack() as undo:
        channel, theirs = socket.socketpair()
        undo.callback(channel.close)
        undo.callback(theirs.close)
        channel.setblocking(False)
        _make_roomy(theirs)
        pipes, given = [], []
        for _ in range(2):
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, read_end)
            undo.callback(os.close, write_end)
            os.set_blocking(read_end, False)
            with suppress(OSError):
                fcntl.fcntl(read_end, _F_SETPIPE_SZ, _PIPE_BYTES)
            pipes.append(read_end)
            given.append(write_end)
        undo.pop_all()
        return Streams(channel, pipes, [*given, theirs.detach()])


def _make_roomy(end: socket.socket) -> None:
    """Let what is sent on this end wait for its reader, up to 1 MiB if the kernel lets us: it may be long in coming."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _PIPE_BYTES)


class Outflow:
    """Writes to a job's channel as the job reads; what can't be written any more is dropped."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting: deque[memoryview] = deque()
        self._watched = False
        self._loop = asyncio.get_running_loop()

    def send(self, buffers: Sequence[wire.Buffer]) -> None:
        """Take these buffers after the earlier ones."""
        idle = not self._waiting
        self._waiting.extend(memoryview(part).cast("B") for part in buffers if memoryview(part).nbytes)
        if idle:
            self._write()

    def close(self) -> None:
        """Write nothing more."""
        self._waiting.clear()
        self._watch(False)

    def _watch(self, wanted: bool) -> None:
        """Be called when the job reads on; to ask for the end of what was not asked for takes long."""
        if wanted and not self._watched:
            self._loop.add_writer(self._channel, self._write)
        elif self._watched and not wanted:
            self._loop.remove_writer(self._channel)
        self._watched = wanted

    def _write(self) -> None:
        try:
            while self._waiting:
                sent = self._channel.send(self._waiting[0][:_CHUNK])
                if sent == len(self._waiting[0]):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = self._waiting[0][sent:]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._watch(True)
            return
        except OSError:
            self._waiting.clear()
        self._watch(False)


class Text:
    """What a job wrote to one of its pipes, as `Stream` reports."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.tail = ""

    def feed(self, data: bytes, *, final: bool = False) -> list[Report]:
        """The reports for these bytes; a character may be cut between two calls."""
        text = self._decoder.decode(data, final)
        if self._name == "stderr":
            self.tail = (self.tail + text)[-_TAIL:]
        return [Stream(name=self._name, text=text[at : at + _MOST_TEXT]) for at in range(0, len(text), _MOST_TEXT)]


class Inflow:
    """Reads a job's channel and pipes, and closes the pipes.

    Nothing is read while the consumer of `batches` is busy, so that the job waits, not a queue.
    """

    def __init__(self, streams: Streams, *, max_body_bytes: int, grace_seconds: float) -> None:
        self.stderr = Text("stderr")
        self._texts = {streams.pipes[0]: Text("stdout"), streams.pipes[1]: self.stderr}
        self._parser = wire.Parser(max_body_bytes=max_body_bytes)
        self._grace_seconds = grace_seconds
        self._open = [*streams.pipes, streams.channel.fileno()]
        self._got: dict[int, bytes] = {}
        self._idle: list[int] = []
        self._wanted = False
        self._wake = asyncio.Event()
        self._usage: UsageUpdate | None = None
        self._no_writer = False
        self._until = math.inf
        self._quiet = False
        self._loop = asyncio.get_running_loop()

    def no_writer_is_left(self) -> None:
        """Whatever has not arrived by now never will."""
        self._no_writer = True
        self._wake.set()

    def report_usage(self, usage: UsageUpdate) -> None:
        """Pass this on with the next batch; only the newest one counts."""
        self._usage = usage
        self._wake.set()

    def take_usage(self) -> UsageUpdate | None:
        """The newest one, unless it was passed on."""
        usage, self._usage = self._usage, None
        return usage

    async def batches(self) -> AsyncIterator[list[Report]]:
        """What the job reports, until nothing can come any more. Raises `ProtocolError`."""
        try:
            self._idle = list(self._open)
            while not self._over():
                await self._woken()
                batch = self._take_got()
                if batch:
                    yield batch
            while self._no_writer and self._open:
                batch = self._drain()
                if batch:
                    yield batch
            if usage := self.take_usage():
                yield [usage]
        finally:
            self.close()

    def close(self) -> None:
        """Close everything that is still open."""
        for descriptor in list(self._open):
            self._finish(descriptor)

    def _over(self) -> bool:
        late = time.monotonic() - self._until
        return self._no_writer or (late >= 0 and self._quiet) or late > _MOST_LATE_SECONDS

    async def _woken(self) -> None:
        """Wait for something to read, after the work's end no longer than it may still take."""
        self._quiet, self._wanted = False, True
        idle, self._idle = self._idle, []
        for descriptor in idle:
            self._loop.add_reader(descriptor, self._one_ready, descriptor)
        try:
            if self._until == math.inf:
                await self._wake.wait()
            else:
                async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                    await self._wake.wait()
        except TimeoutError:
            self._quiet = not self._wake.is_set()
        self._wake.clear()
        self._wanted = False

    def _take_got(self) -> list[Report]:
        """What was read from each, pipes first: what was printed comes before the result."""
        got, self._got = self._got, {}
        batch: list[Report] = []
        for descriptor in sorted(got, key=self._open.index):
            batch += self._reports(descriptor, got[descriptor])
        if usage := self.take_usage():
            batch.append(usage)
        return batch

    def _drain(self) -> list[Report]:
        """One more read from each; whoever has nothing now is at its end."""
        batch: list[Report] = []
        for descriptor in list(self._open):
            batch += self._reports(descriptor, _read(descriptor) or b"")
        return batch

    def _reports(self, descriptor: int, data: bytes) -> list[Report]:
        text = self._texts.get(descriptor)
        if not data:
            self._finish(descriptor)
            if text is None:
                self._end_within(DRAIN_SECONDS)
            return text.feed(b"", final=True) if text else []
        return text.feed(data) if text else self._frames(data)

    def _frames(self, data: bytes) -> list[Report]:
        try:
            reports = decode_frames(self._parser.feed(data))
        except wire.WireError as error:
            raise ProtocolError(f"The job sent what is not allowed: {error}. It was stopped.") from None
        if not _TERMINAL.isdisjoint(map(type, reports)):
            self._end_within(self._grace_seconds)
        return reports

    def _end_within(self, seconds: float) -> None:
        self._until = min(self._until, time.monotonic() + seconds)

    def _one_ready(self, descriptor: int) -> None:
        """Read once for a consumer that waits. While it is busy look no more: the loop would call again and again."""
        if not self._wanted or descriptor in self._got:
            self._loop.remove_reader(descriptor)
            self._idle.append(descriptor)
        elif (data := _read(descriptor)) is not None:
            self._got[descriptor] = data
            self._wake.set()

    def _finish(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        if descriptor in self._idle:
            self._idle.remove(descriptor)
        else:
            self._loop.remove_reader(descriptor)
        if descriptor in self._texts:
            os.close(descriptor)


def _read(descriptor: int) -> bytes | None:
    """What is there: nothing at the end, `None` where there may be more to come."""
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None
    except OSError:  # the job died with data of ours unread
        return b""

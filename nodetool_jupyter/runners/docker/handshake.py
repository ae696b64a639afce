"""The first words with a container: the archive goes in, while what comes out is read, until its worker is ready.

What an image does instead is its own affair: it may read nothing, write without end, or both at once. An engine that
can't get rid of a container's output stops answering for all of them, so nothing is ever sent without reading.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress

from ...errors import ProtocolError
from ...frames import Ready, decode_frame
from ...worker import wire
from ...worker.container import CHANNEL
from ..base import WorkerNotStarted
from .attach import Parts
from .bundle import bundle
from .engine import CallOff

READY_SECONDS, _LEAST_SECONDS = 60.0, 20.0
_NOT_READY = (
    "The container's worker was not ready after {:g} s. Try the image's python3, or look at the load of the engine."
)
CALLED_OFF = "The start was called off."
_CHUNK = 64 << 10
_MOST_BYTES = 256 << 10
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_OFFICIAL = "Try --image with an official Python image."
_NO_WORKER = f"The image's python3 wrote what no worker writes. {_OFFICIAL}"


def send_ahead(connection: socket.socket) -> memoryview:
    """Send as much of the archive as the connection takes before its container starts; what is left of it.

    Nothing can come out yet. From now on the stream does not block any more.
    """
    connection.setblocking(False)
    unsent = memoryview(bundle().data)
    while unsent and (left := _send(connection, unsent)).nbytes < unsent.nbytes:
        unsent = left
    return unsent


def patience(wall_seconds: float | None) -> float:
    """How many seconds a job with this time limit waits for its worker, which is none of the job's own time.

    Nobody who gives a job few seconds is to wait a minute for a python3 that says nothing; a busy engine needs some.
    """
    return READY_SECONDS if wall_seconds is None else min(READY_SECONDS, max(_LEAST_SECONDS, wall_seconds))


def handshake(
    connection: socket.socket, unsent: memoryview, stop: CallOff, *, seconds: float = READY_SECONDS
) -> tuple[str, Parts]:
    """The version of the worker's Python, and the state of the stream; sends what is left of the archive. Blocks.

    Raises `WorkerNotStarted`.
    """
    greeting = _Greeting()
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        poll = select.poll()  # `select` takes no descriptor above 1023
        poll.register(connection, select.POLLIN | (select.POLLOUT if unsent else 0))
        poll.poll(left * 1000)
        if stop.is_set():
            raise WorkerNotStarted(CALLED_OFF)
        unsent = _send(connection, unsent)
        for data in _arrived(connection):
            if version := greeting.hear(data):
                return version, greeting.parts
    raise WorkerNotStarted(_NOT_READY.format(seconds))


class _Greeting:
    """Waits for the one frame of a worker that is ready."""

    def __init__(self) -> None:
        self.parts = Parts()
        self._parser = wire.Parser(max_body_bytes=0)
        self._heard = 0

    def hear(self, data: bytes) -> str:
        """The version once it is ready, "" before. No data is the end of the stream. Raises `WorkerNotStarted`."""
        if not data:
            raise WorkerNotStarted(_complaint(self.parts.words.decode("utf-8", "replace").strip()))
        self._heard += len(data)
        try:
            pieces = self.parts.feed(data)
            frames = [frame for kind, piece in pieces if kind == CHANNEL for frame in self._parser.feed(piece)]
            reports = [decode_frame(header, body) for header, body in frames]
        except (ProtocolError, wire.WireError):
            raise WorkerNotStarted(_NO_WORKER) from None
        if not reports and self._heard <= _MOST_BYTES:
            return ""
        if len(reports) == 1 and isinstance(reports[0], Ready):
            return reports[0].python
        raise WorkerNotStarted(_NO_WORKER)  # a worker says nothing more before it has a job


def _send(connection: socket.socket, unsent: memoryview) -> memoryview:
    """What is still to be sent; nothing when the other end takes no more, which tells on its way out why."""
    try:
        return unsent[connection.send(unsent) :] if unsent else unsent
    except _NOT_YET:
        return unsent
    except OSError:
        return unsent[:0]


def _arrived(connection: socket.socket) -> Iterator[bytes]:
    """What can be had now, and no data at the end of the stream."""
    with suppress(*_NOT_YET):
        while True:
            try:
                data = connection.recv(_CHUNK)
            except ConnectionError:
                data = b""
            yield data
            if not data or not isinstance(connection, ssl.SSLSocket):
                return  # the rest of what a plain socket has is told by the next poll


def _complaint(words: str) -> str:
    if words.startswith("it is "):
        return (
            f"The image's python3 can't run jobs: {words}, and CPython 3.11 or newer is needed. Choose another --image."
        )
    last = words.splitlines()[-1] if words else "it ended without a word"
    return f"The image's python3 could not start the worker: {last}. {_OFFICIAL}"

"""A container's streams: one socket of the engine, read at once whatever happens, frame by frame.

An engine that can't get rid of a container's output stops answering calls about it, and those that go over all
containers. So what comes is always taken; that it never is too much is the matter of the other end, our first process,
which waits for our grants. An image that has another there is held off only as long as this process runs.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ...errors import ProtocolError
from ...events import Stream
from ...frames import Report, decode_frames
from ...worker import wire
from ...worker.container import CHANNEL, GRANT, NOTE, PART, PART_BYTES, STDERR, STDOUT, WINDOW_BYTES
from ..process_streams import Outflow, Text

_HEADER = struct.Struct("!BxxxI")
_CHUNK = 256 << 10
_PART_BYTES = 64 << 10
_GRANT_FROM = 16 << 10
_MOST_UNTAKEN = 2 * WINDOW_BYTES
_MOST_NOTE = 64 << 10
_MOST_WORDS = 8 << 10
_MOST_OUTSIDE = 256 << 10
_FORGED = "The container sent what is not allowed on its channel. It was stopped."
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Parts:
    """Cuts the engine's stream into the container's parts: docker's frames outside, ours inside.

    `words` is what was written past our first process: its complaint when it could not start.
    """

    def __init__(self) -> None:
        self._outer = bytearray()
        self._inner = bytearray()
        self.words = b""
        self._outside = 0
        self._ended = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The parts that are complete after these bytes. Raises `ProtocolError`."""
        self._outer += data
        at = 0
        view = self._outer
        while len(view) - at >= _HEADER.size:
            kind, size = _HEADER.unpack_from(view, at)
            if len(view) - at - _HEADER.size < size:
                break
            piece = view[at + _HEADER.size : at + _HEADER.size + size]
            at += _HEADER.size + size
            if kind == 1:
                self._inner += piece
            else:
                self._outside += size
                if self._outside > _MOST_OUTSIDE:  # nobody has granted any of that
                    raise ProtocolError(_FORGED)
                self.words = (self.words + piece)[-_MOST_WORDS:]
        del self._outer[:at]
        return self._cut()

    def _cut(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        at = 0
        while len(self._inner) - at >= PART.size:
            kind, size = PART.unpack_from(self._inner, at)
            if self._ended or kind > NOTE or not 0 < size <= _PART_BYTES:
                raise ProtocolError(_FORGED)
            if len(self._inner) - at - PART.size < size:
                break
            found.append((kind, bytes(self._inner[at + PART.size : at + PART.size + size])))
            self._ended = kind == NOTE
            at += PART.size + size
        del self._inner[:at]
        return found


def hang_up(connection: socket.socket) -> None:
    """End both directions of a connection for everyone who holds it."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # an SSL socket's own one breaks who reads just now


class Attached:
    """Both directions of an attached container, on the loop on which it is made.

    `note` is what the container's first process said at its end; `ended` is set when the stream has.
    """

    def __init__(self, connection: socket.socket, parts: Parts) -> None:
        self._socket = connection
        connection.setblocking(False)
        self.note: dict[str, Any] | None = None
        self.ended = asyncio.Event()
        self.fault = ""
        self._parts = parts
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._untaken = self._ungranted = 0
        self._out = Outflow(connection)
        self.wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._readable)

    @property
    def untaken(self) -> bool:
        """Whether something has arrived that nobody took."""
        return bool(self._arrived)

    @property
    def words(self) -> str:
        """What came on the container's own stderr."""
        return self._parts.words.decode("utf-8", "replace").strip()

    def send_frame(self, buffers: Sequence[wire.Buffer]) -> None:
        """Send a frame to the worker, after the earlier ones; nowhere once the stream has ended."""
        if self.ended.is_set():
            return
        views: list[wire.Buffer] = []
        for buffer in buffers:
            whole = memoryview(buffer).cast("B")
            for at in range(0, whole.nbytes, _PART_BYTES):
                piece = whole[at : at + _PART_BYTES]
                views += [PART.pack(CHANNEL, piece.nbytes), piece]
        self._out.send(views)

    def take(self) -> list[tuple[int, bytes]]:
        """What has arrived; lets the container send as much anew."""
        parts = list(self._arrived)
        self._arrived.clear()
        self._ungranted += self._untaken
        self._untaken = 0
        if self._ungranted >= _GRANT_FROM and not self.ended.is_set():
            self._out.send([PART.pack(GRANT, 4) + self._ungranted.to_bytes(4, "big")])
            self._ungranted = 0
        return parts

    def close(self) -> None:
        """End both directions; the container's first process then ends the job."""
        if self.ended.is_set():
            return
        self.ended.set()
        self.wake.set()
        self._loop.remove_reader(self._socket)
        self._out.close()
        hang_up(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
            while data and isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
                data += self._socket.recv(_CHUNK)
        except _NOT_YET:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            self._sort(self._parts.feed(data))
        except ProtocolError as error:
            self._break(str(error))

    def _sort(self, parts: list[tuple[int, bytes]]) -> None:
        for kind, piece in parts:
            if kind == NOTE:
                self.note = _read_note(piece)
            else:
                self._untaken += len(piece) + PART_BYTES
                self._arrived.append((kind, piece))
        if self._untaken + self._ungranted > _MOST_UNTAKEN:
            self._break("The container sent more than it was granted. It was stopped.")
        self.wake.set()

    def _break(self, fault: str) -> None:
        self.fault = fault
        self._arrived.clear()
        self.close()


def _read_note(piece: bytes) -> dict[str, Any]:
    """The note, or an empty one where it isn't what it must be: the job can have forged it."""
    try:
        found = json.loads(piece[:_MOST_NOTE])
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class Reader:
    """Makes reports of the parts of one job."""

    def __init__(self, *, max_body_bytes: int) -> None:
        self._parser = wire.Parser(max_body_bytes=max_body_bytes)
        self.stderr = Text("stderr")
        self._texts = {STDOUT: Text("stdout"), STDERR: self.stderr}

    def reports(self, parts: Sequence[tuple[int, bytes]]) -> list[Report]:
        """In the order in which they came. Raises `ProtocolError`."""
        found: list[Report] = []
        for kind, piece in parts:
            if kind == CHANNEL:
                found += self._frames(piece)
            else:
                found += self._texts[kind].feed(piece)
        return found

    def last(self) -> list[Report]:
        """What an unfinished character becomes when nothing more can come."""
        return [report for text in self._texts.values() for report in text.feed(b"", final=True) if _says(report)]

    def _frames(self, piece: bytes) -> list[Report]:
        try:
            return decode_frames(self._parser.feed(piece))
        except wire.WireError as error:
            raise ProtocolError(f"The job sent what is not allowed: {error}. It was stopped.") from None


def _says(report: Report) -> bool:
    return not isinstance(report, Stream) or bool(report.text)

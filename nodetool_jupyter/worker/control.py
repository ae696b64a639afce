"""The supervisor's channel: length-prefixed JSON on a stream socket, with descriptors beside it."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

PREFIX = struct.Struct("!I")
MAX_MESSAGE_BYTES = 16 << 20
_DESCRIPTOR = struct.Struct("i")
_BESIDE_BYTES = socket.CMSG_SPACE(16 * _DESCRIPTOR.size)  # `recv_fds` of 3.11 loses the flag for close-on-exec
_CHUNK = 1 << 16


class ControlError(Exception):
    """The bytes on the channel are no message."""


class Control:
    """One end of the channel; never blocks. Whoever has it calls `flush` when it is writable again."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._out: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._in = bytearray()
        self._descriptors: deque[list[int]] = deque()

    @property
    def unsent(self) -> int:
        """Messages that wait until the other end reads."""
        return len(self._out)

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message; takes over the descriptors and closes them here. `OSError` when nobody is there."""
        data = json.dumps(message, separators=(",", ":")).encode("ascii")
        self._out.append((memoryview(PREFIX.pack(len(data)) + data), tuple(descriptors)))
        self.flush()

    def flush(self) -> None:
        """Write what fits."""
        while self._out:
            view, descriptors = self._out[0]
            try:
                if descriptors:
                    sent = socket.send_fds(self.socket, [view], list(descriptors))
                else:
                    sent = self.socket.send(view)
            except BlockingIOError:
                return
            except OSError:
                self._drop_unsent()
                raise
            _close(descriptors)
            if sent < len(view):
                self._out[0] = view[sent:], ()
            else:
                self._out.popleft()

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that are there now, possibly none; `None` once the other end is gone."""
        try:
            data, beside, flags, _ = self.socket.recvmsg(_CHUNK, _BESIDE_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        numbers: list[int] = []
        for level, kind, part in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(part) // _DESCRIPTOR.size * _DESCRIPTOR.size
                numbers += [number for (number,) in _DESCRIPTOR.iter_unpack(part[:whole])]
        if numbers or flags & socket.MSG_CTRUNC:
            self._descriptors.append(numbers)
        if not data:
            return None
        self._in += data
        messages = []
        while len(self._in) >= PREFIX.size:
            (size,) = PREFIX.unpack_from(self._in)
            if size > MAX_MESSAGE_BYTES:
                raise ControlError(f"a message of {size} bytes is too large")
            if len(self._in) < PREFIX.size + size:
                break
            text = bytes(self._in[PREFIX.size : PREFIX.size + size])
            del self._in[: PREFIX.size + size]
            messages.append(json.loads(text))
        return messages

    def take(self, count: int) -> list[int] | None:
        """The descriptors of the next message that had some; `None` when not all arrived (too many are open).

        The kernel gives them with a message's first bytes and ends the read there. A long message is read in
        parts, and its last part may come together with the next message and what that one has.
        """
        taken = self._descriptors.popleft() if self._descriptors else []
        if len(taken) == count:
            return taken
        _close(taken)
        return None

    def close(self) -> None:
        """Close this end and every descriptor that was on its way."""
        self._drop_unsent()
        for numbers in self._descriptors:
            _close(numbers)
        self._descriptors.clear()
        self.socket.close()

    def _drop_unsent(self) -> None:
        for _, descriptors in self._out:
            _close(descriptors)
        self._out.clear()


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

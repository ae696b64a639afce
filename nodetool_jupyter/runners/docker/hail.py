"""Whether an engine of this machine takes a new call now, at a fifth of the SDK's cost: every job asks that."""

from __future__ import annotations

import socket
import time

_HEAD_BYTES = 1 << 10


class NotWell(ConnectionError):
    """Another answer than the good one: its status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it answered with {status}")
        self.status = status


class Hail:
    """A ping that is sent with this, and heard later. sent: when, on the monotonic clock. Raises `OSError`."""

    def __init__(self, path: str, *, seconds: float) -> None:
        self.sent = time.monotonic()
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            self._connection.settimeout(seconds)
            self._connection.connect(path)
            self._connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n")
        except BaseException:
            self._connection.close()
            raise

    def hear(self) -> None:
        """Wait for the answer, which must be a good one. Raises `OSError`."""
        with self._connection:
            head = self._connection.recv(_HEAD_BYTES).partition(b"\r\n")[0]
        status = [*head.split(), b"", b""][1]
        if status != b"200":
            raise NotWell(int(status)) if status.isdigit() else ConnectionError("it hung up")

    def close(self) -> None:
        """Hear nothing."""
        self._connection.close()

"""Connections to an engine's socket on this machine, closed when nobody answers and used again for any call.

The SDK's own stay open when they can't be made, and wait each for the very same call. Imported with the SDK.
"""

from __future__ import annotations

import socket
from typing import Any
from weakref import WeakSet

from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool

from .attach import hang_up


class _Connection(UnixHTTPConnection):  # type: ignore[misc]
    known: WeakSet[_Connection]

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(self.timeout)
            made.connect(self.unix_socket)
        except BaseException:
            made.close()
            raise
        self.sock = made
        self.known.add(self)


class _Pool(UnixHTTPConnectionPool):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.known: WeakSet[_Connection] = WeakSet()

    def _new_conn(self) -> _Connection:
        made = _Connection(self.base_url, self.socket_path, self.timeout)
        made.known = self.known
        return made


class UnixAdapter(UnixHTTPAdapter):  # type: ignore[misc]
    """Serves a client with one pool of connections."""

    def __init__(self, path: str, *, seconds: float, connections: int) -> None:
        super().__init__(f"http+unix://{path}", timeout=seconds, max_pool_size=connections)
        self._pool = _Pool("http+docker://localhost", path, seconds, maxsize=connections)

    def get_connection(self, url: str, proxies: Any = None) -> _Pool:
        """The pool, whatever the URL."""
        return self._pool

    def hang_up(self) -> None:
        """Whoever waits for an answer gets an `OSError`."""
        for connection in list(self._pool.known):
            if connection.sock is not None:
                hang_up(connection.sock)

    def close(self) -> None:
        """Close the connections that are not in use."""
        super().close()
        self._pool.close()

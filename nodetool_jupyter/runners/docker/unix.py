"""Connections to an engine's socket on this machine, closed when nobody answers and used again for any call.

The SDK's own stay open when they can't be made, and wait each for the very same call. And what `requests` does around
a call takes longer than most calls. Imported with the SDK.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlencode
from weakref import WeakSet

import requests
from docker import APIClient
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


class _Bounded(socket.socket):
    """Waits until `deadline` on the monotonic clock, however often a few bytes come. Raises `TimeoutError`."""

    deadline = math.inf

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
        return super().recv_into(*arguments, **options)


class _Plain(HTTPConnection):
    sock: _Bounded | None

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path
        self.deadline = math.inf

    def connect(self) -> None:
        self.sock = _Bounded(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        self.sock.deadline = self.deadline

    def allow(self, seconds: float) -> None:
        """How long the next call may take, from its first byte to its last."""
        self.timeout, self.deadline = seconds, time.monotonic() + seconds
        if self.sock is not None:
            self.sock.settimeout(seconds)
            self.sock.deadline = self.deadline

    def lives(self) -> bool:
        """Whether the other end has neither closed it nor said something that nobody asked for."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)


class LocalClient(APIClient):  # type: ignore[misc]
    """The SDK's client, whose calls with one whole answer are made without `requests`."""

    def __init__(self, path: str, **options: Any) -> None:
        self._path = path
        self._idle: list[_Plain] = []
        self._known: WeakSet[_Plain] = WeakSet()
        self._ended = False
        super().__init__(**options)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """See `requests.Session`; raises the same."""
        if options.get("stream") or options.get("json") or options.get("files"):
            found: requests.Response = super().request(method, url, **options)
            return found
        query = _query(options.get("params") or {})
        connection = self._connection()
        try:
            connection.allow(options["timeout"])
            target = url.removeprefix(self.base_url) + query
            connection.request(method, target, options.get("data"), options.get("headers") or {})
            answer = connection.getresponse()
            made = _response(url, answer.status, answer.reason, answer.headers, answer.read())
        except TimeoutError as error:
            connection.close()
            raise requests.exceptions.ReadTimeout(f"{url} timed out") from error
        except (OSError, HTTPException) as error:
            connection.close()
            raise requests.exceptions.ConnectionError(f"{url}: {error}") from error
        if connection.sock is not None:
            self._idle.append(connection)
        if self._ended:
            self._close_idle()
        return made

    def hang_up(self) -> None:
        """Whoever waits for an answer gets an `OSError`."""
        self.get_adapter(self.base_url).hang_up()
        for connection in list(self._known):
            if connection.sock is not None:
                hang_up(connection.sock)

    def close(self) -> None:
        """Close the connections, those in use when they have their answer."""
        self._ended = True
        self._close_idle()
        super().close()

    def _connection(self) -> _Plain:
        while self._idle:
            try:
                found = self._idle.pop()
            except IndexError:  # another thread was first
                break
            if found.lives():
                return found
            found.close()
        made = _Plain(self._path)
        self._known.add(made)
        return made

    def _close_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return


def _query(params: Mapping[str, Any]) -> str:
    """As `requests` has it: what is `None` is left out."""
    given = {name: value for name, value in params.items() if value is not None}
    return f"?{urlencode(given, doseq=True)}" if given else ""


def _response(url: str, status: int, reason: str, headers: Any, content: bytes) -> requests.Response:
    made = requests.Response()
    made.url, made.status_code, made.reason, made.headers = url, status, reason, headers
    made._content, made.encoding = content, "utf-8"
    return made

"""A call whose answer goes on for long, on a connection of its own that another thread can hang up at any time."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from .attach import hang_up
from .engine import EngineRefused

_KEPT = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class Line:
    """The call is made by `open`, in the thread that reads; `close` may be called from any other, at any time.

    seconds: how long it may be silent, `None` for ever.
    """

    def __init__(
        self,
        client: Any,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        seconds: float | None,
    ) -> None:
        import requests

        request = requests.Request(method, client._url(path), params=dict(params), headers=dict(headers or {}))
        self._request = client.prepare_request(request)
        adapter = client.get_adapter(self._request.url)
        pool = adapter.get_connection_with_tls_context(self._request, client.verify, cert=client.cert)
        self._connection = pool._new_conn()
        self._connection.timeout = seconds
        self._answer: Any = None
        self._hung_up = False

    @property
    def stream(self) -> socket.socket:
        """The connection, once it is open."""
        found: socket.socket = self._connection.sock
        return found

    def open(self) -> None:
        """Make the call; returns with the head of its answer. Raises `OSError`, `EngineRefused`."""
        self._connection.connect()
        _keep_alive(self.stream)
        if self._hung_up:
            self.close()
        asked, headers = self._request, dict(self._request.headers)
        self._connection.request(asked.method, asked.path_url, headers=headers, preload_content=False)
        self._answer = self._connection.getresponse()
        if self._answer.status >= 400:
            raise EngineRefused(self._answer.status, _message(self._answer.read()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each line of the answer, until the engine or `close` ends it. Raises `OSError` when it breaks off."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        waiting = b""
        try:
            for data in self._answer.read_chunked():
                *lines, waiting = (waiting + data).split(b"\n")
                yield from (json.loads(line) for line in lines if line.strip())
        except ReadTimeoutError:
            raise TimeoutError("timed out") from None
        except HTTPError as error:
            if not self._hung_up:
                raise ConnectionError(f"its answer broke off: {error}") from None

    def close(self) -> None:
        """Hang up: whoever reads is at the end of it, or gets an `OSError`."""
        self._hung_up = True
        found = self._connection.sock
        if found is not None:
            hang_up(found)

    def detach(self) -> socket.socket:
        """The open connection, for whoever speaks another protocol on it from now on."""
        found, self._connection.sock = self.stream, None
        return found

    def end(self) -> None:
        """Give the descriptor back; by the thread that reads, after it has."""
        if self._answer is not None:
            self._answer.close()
        self._connection.close()


def _keep_alive(connection: socket.socket) -> None:
    """Have it end when nothing comes through any more: networks drop what is silent for long, and tell nobody.

    A job may say nothing for hours, and the engine's events as well.
    """
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEPT.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()


def opened_events(client: Any, filters: Mapping[str, list[str]], *, seconds: float) -> Line:
    """The engine's stream of events, whose reads do not block. `seconds`: for the head of the answer."""
    line = Line(client, "GET", "/events", params={"filters": json.dumps(filters)}, seconds=seconds)
    try:
        line.open()
    except BaseException:
        line.end()
        raise
    line.stream.setblocking(False)
    return line

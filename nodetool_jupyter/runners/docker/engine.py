"""The Docker engine through its SDK: each call with a deadline of its own, and an error that says what to do."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from ...errors import RunnerUnavailable

if TYPE_CHECKING:
    from docker import APIClient

T = TypeVar("T")
SHORT_SECONDS, LONG_SECONDS = 10.0, 60.0
_CHECK_SECONDS = 3.0
_ALIVE_SECONDS = 5.0
_FACTS_SECONDS = 60.0
_OLDEST_API = (1, 41)
_MOST_MISSED = 3
_PAUSE_SECONDS = 10.0
_THREADS = 24
_CONFIGURED = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
_ELSEWHERE = "Start Docker, or choose another --runner; the job was not moved to another runner"


class EngineUnavailable(RunnerUnavailable):
    """No engine answers, or not one that can be used."""

    code = "NT-D01"

    def __init__(self, why: str, remedy: str = _ELSEWHERE) -> None:
        super().__init__("docker", why, remedy)


class EngineRefused(Exception):
    """The engine answered a call with an error: its status and its words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class CallOff(threading.Event):
    """Set when a start is called off. What is read at that time is closed, so that nobody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._open: Any = None

    def closing(self, stream: T) -> T:
        """The stream, to be closed by `set`."""
        self._open = stream
        if self.is_set():
            self.set()
        return stream

    def set(self) -> None:
        """Call it off."""
        super().set()
        if self._open is not None:
            self._open.close()


class Engine:
    """One engine, as `DOCKER_HOST` names it or the one of this machine. Its methods may be called from any thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name: environ[name] for name in _CONFIGURED if environ.get(name)}
        self.url = self._environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        self._clients: dict[float, APIClient] = {}
        self._lock = threading.Lock()
        self._facts: tuple[float, Mapping[str, Any]] | None = None
        self._alive_at = 0.0
        self._missed = 0
        self._missed_at = 0.0
        self._limiter: anyio.CapacityLimiter | None = None

    def facts(self) -> Mapping[str, Any]:
        """What the engine says of itself, if it answered some seconds ago. Raises `EngineUnavailable`."""
        found, now = self._facts, time.monotonic()
        if found is not None and now - found[0] < _FACTS_SECONDS:
            if now - self._alive_at >= _ALIVE_SECONDS:
                self.ask(lambda client: client.ping(), seconds=_CHECK_SECONDS)  # a tenth of what `info` costs
            return found[1]
        if self._missed >= _MOST_MISSED and time.monotonic() - self._missed_at < _PAUSE_SECONDS:
            raise EngineUnavailable(f"the engine at {self.url} did not answer {self._missed} times in a row")
        facts: Mapping[str, Any] = self.ask(lambda client: client.info(), seconds=_CHECK_SECONDS)
        self._facts = time.monotonic(), facts
        return facts

    def ask(self, call: Callable[[APIClient], T], *, seconds: float = SHORT_SECONDS) -> T:
        """The engine's answer, from this thread. Raises `EngineUnavailable`, `EngineRefused`."""
        import docker.errors
        import requests

        try:
            answer = call(self._client(seconds))
        except docker.errors.APIError as error:
            self._missed = 0
            raise EngineRefused(error.response.status_code, str(error.explanation or error)) from None
        except requests.exceptions.Timeout:
            self._miss()
            raise EngineUnavailable(f"the engine at {self.url} did not answer within {seconds:g} s") from None
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            if "timed out" in str(error):
                self._miss()
            self._facts = None
            raise self._unreachable(error, seconds) from None
        self._missed = 0
        self._alive_at = time.monotonic()
        return answer

    async def call(self, call: Callable[[APIClient], T], *, seconds: float = SHORT_SECONDS) -> T:
        """The same without blocking the loop; goes on to its end when its caller is cancelled."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_THREADS)
        return await anyio.to_thread.run_sync(lambda: self.ask(call, seconds=seconds), limiter=self._limiter)

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _client(self, seconds: float) -> APIClient:
        with self._lock:
            if (client := self._clients.get(seconds)) is not None:
                return client
        from docker import APIClient
        from docker.utils import kwargs_from_env

        oldest = ".".join(map(str, _OLDEST_API))
        environ = kwargs_from_env(environment=self._environ)
        made = APIClient(**environ, version=oldest, timeout=seconds, num_pools=_THREADS)
        try:  # "auto" would ask as well, and leave the connection open when nobody answers
            made._version = made._retrieve_server_version()
        except BaseException:
            made.close()
            raise
        found = tuple(int(part) for part in made.api_version.split("."))
        if found < _OLDEST_API:
            made.close()
            raise EngineUnavailable(
                f"the engine at {self.url} speaks API {made.api_version}, and {oldest} is needed",
                "Install Docker 20.10 or newer",
            )
        with self._lock:
            return self._clients.setdefault(seconds, made)

    def _miss(self) -> None:
        self._missed += 1
        self._missed_at = time.monotonic()
        self._facts = None

    def _unreachable(self, error: Exception, seconds: float) -> EngineUnavailable:
        number = _errno(error)
        if number == errno.EACCES:
            return EngineUnavailable(
                f"you may not use the engine at {self.url} (permission denied)",
                "Join the group docker (sudo usermod -aG docker $USER) and log in again, or use rootless Docker",
            )
        if "timed out" in str(error):
            return EngineUnavailable(f"the engine at {self.url} did not answer within {seconds:g} s")
        why = {errno.ENOENT: "there is no such socket", errno.ECONNREFUSED: "connection refused"}.get(number)
        return EngineUnavailable(f"no engine answers at {self.url}: {why or _last_words(error)}")


def _errno(error: BaseException | None) -> int:
    """The system's error number at the bottom of what the SDK raised; 0 for none."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, OSError) and isinstance(found.errno, int) and found.errno:
            return found.errno
        waiting += [found.__cause__, found.__context__, *(a for a in found.args if isinstance(a, BaseException))]
    return 0


def _last_words(error: Exception) -> str:
    return str(error).rpartition(": ")[2].strip("()'\" ") or type(error).__name__

"""The Docker engine through its SDK: each call with a deadline of its own, and an error that says what to do."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException as _NoHttp
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from ...errors import RunnerUnavailable
from .endpoint import NoEndpoint, answer_in, endpoint, in_words, number_in, why
from .hail import Hail, NotWell
from .removal import Removal

if TYPE_CHECKING:
    from docker import APIClient

T = TypeVar("T")
CHECK_SECONDS, SHORT_SECONDS, LONG_SECONDS = 3.0, 10.0, 60.0
_FACTS_SECONDS, _HEARD_SECONDS = 60.0, 0.1
_OLDEST_API, _NEWEST_API = (1, 41), (1, 45)  # what this program was tried with: an engine answers as it did then
_MOST_MISSED = 3
_PAUSE_SECONDS = 10.0
_THREADS = 24
_ELSEWHERE = (
    "Start Docker, set DOCKER_HOST to where it listens, or choose another --runner; "
    "the job was not moved to another runner"
)


class EngineUnavailable(RunnerUnavailable):
    """No engine answers, or not one that can be used."""

    code = "NT-D01"

    def __init__(self, why: str, remedy: str = _ELSEWHERE) -> None:
        super().__init__("docker", why, remedy)


class MustAsk(Exception):
    """The engine would have to be asked, and the caller may not wait."""


class EngineRefused(Exception):
    """The engine answered a call with an error: its status and its words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(in_words(text) or _phrase(status))
        self.status = status


NOT_ALLOWED = (401, 403)
"""Of a proxy before the engine, or of a plugin in it."""


class CallOff(threading.Event):
    """Set when a start is called off. What is read at that time is closed, so that nobody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._open: set[Any] = set()

    @contextmanager
    def closing(self, stream: T) -> Iterator[T]:
        """Within the block, `set` closes the stream, which must bear that from another thread."""
        self._open.add(stream)
        try:
            if self.is_set():
                stream.close()  # type: ignore[attr-defined]
            yield stream
        finally:
            self._open.discard(stream)

    def set(self) -> None:
        """Call it off."""
        super().set()
        for stream in list(self._open):
            stream.close()


class Engine:
    """One engine, as `DOCKER_HOST` names it or the one of this machine. Its methods may be called from any thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._endpoint = endpoint(environ)
        self.url = self._endpoint.url
        self._clients: dict[float, APIClient] = {}
        self._version = ""
        self._lock = threading.Lock()
        self._facts: tuple[float, Mapping[str, Any]] | None = None
        self._missed = 0
        self._missed_at = self._heard = 0.0
        self._limiter: anyio.CapacityLimiter | None = None
        self._closed = False
        self._unasked = 0
        self.watched = False
        """Whether somebody sees it go, so that what it said of itself holds."""
        self.left = Removal(self._try_to_remove)
        self.before_container: Callable[[], object] = lambda: None
        """Called before each container is made, whatever for and in whichever thread."""

    @property
    def silent(self) -> bool:
        """Whether it left several calls in a row without an answer, the last one just now."""
        return self._missed >= _MOST_MISSED and time.monotonic() - self._missed_at < _PAUSE_SECONDS

    @property
    def local_socket(self) -> str:
        """The path of its socket on this machine, "" for an engine elsewhere."""
        return self._endpoint.socket

    def is_there(self) -> bool:
        """Whether there may be an engine that this user may ask, without asking it."""
        path = self.local_socket
        return os.access(path, os.R_OK | os.W_OK) if path else True

    def facts(self) -> Mapping[str, Any]:
        """What the engine says of itself, if it answers now. Raises `EngineUnavailable`."""
        if (known := self._known()) is not None:
            if time.monotonic() - self._heard > _HEARD_SECONDS:
                self.ping()
            return known
        if self.silent:
            raise EngineUnavailable(
                f"the engine at {self.url} did not answer {self._missed} times in a row; it is asked again in seconds"
            )
        facts = self.asked_of_it(lambda client: dict(client.info()))
        self._facts = time.monotonic(), facts
        return facts

    def asked_of_it(self, call: Callable[[APIClient], T]) -> T:
        """The answer to what every engine tells within seconds, so that one that refuses is none to be used.

        Raises `EngineUnavailable`; `EngineRefused` for what isn't there, and what isn't asked well.
        """
        try:
            return self.ask(call, seconds=CHECK_SECONDS)
        except EngineRefused as error:
            if error.status in (400, 404):
                raise
            raise self.not_served(error.status, str(error)) from None

    @contextmanager
    def facts_meanwhile(self) -> Iterator[Mapping[str, Any]]:
        """The same, but that its answer may come while the block runs: the end waits for it."""
        known = self._known() if self.local_socket else None
        if known is None or time.monotonic() - self._heard <= _HEARD_SECONDS:
            yield self.facts()
            return
        try:
            hail = Hail(self.local_socket, seconds=CHECK_SECONDS)
        except OSError as error:
            self._facts = None
            raise self._unreachable(error, CHECK_SECONDS) from None
        try:
            yield known
            self.ask(lambda client: hail.hear(), seconds=CHECK_SECONDS)
            self._heard = hail.sent
        finally:
            hail.close()

    def _known(self) -> Mapping[str, Any] | None:
        found = self._facts
        if found is None or not (self.watched or time.monotonic() - found[0] < _FACTS_SECONDS):
            return None
        return found[1]

    def ping(self) -> None:
        """See that it takes a new call now. Raises as `ask` does."""
        if path := self.local_socket:
            self.ask(lambda client: Hail(path, seconds=CHECK_SECONDS).hear(), seconds=CHECK_SECONDS)
        else:
            self.ask(lambda client: client.ping(), seconds=CHECK_SECONDS)

    @property
    def may_ask(self) -> bool:
        """Whether this thread may ask it something now."""
        return self._unasked != threading.get_ident()

    @contextmanager
    def unasked(self) -> Iterator[None]:
        """Within the block, whatever would have to be asked by this thread raises `MustAsk` instead."""
        self._unasked = threading.get_ident()
        try:
            yield
        finally:
            self._unasked = 0

    def forget(self) -> None:
        """Ask anew what it is: it may be another by now."""
        self._facts = None

    def ask(self, call: Callable[[APIClient], T], *, seconds: float = SHORT_SECONDS) -> T:
        """The engine's answer, from this thread. Raises `EngineUnavailable`, `EngineRefused`."""
        if not self.may_ask:
            raise MustAsk
        import docker.errors
        import requests
        import urllib3.exceptions as broken

        try:
            answer = call(self._client(seconds))
        except docker.errors.APIError as error:
            self._missed = 0
            raise EngineRefused(error.response.status_code, str(error.explanation or error)) from None
        except requests.exceptions.Timeout:
            self._miss()
            raise EngineUnavailable(f"the engine at {self.url} did not answer within {seconds:g} s") from None
        except (docker.errors.DockerException, requests.RequestException, broken.HTTPError, _NoHttp, OSError) as error:
            if "timed out" in str(error):
                self._miss()
            self._facts = None
            raise self._unreachable(error, seconds) from None
        self._missed = 0
        self._heard = time.monotonic()
        return answer

    async def call(self, call: Callable[[APIClient], T], *, seconds: float = SHORT_SECONDS) -> T:
        """The same without blocking the loop; goes on to its end when its caller is cancelled."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_THREADS)
        return await anyio.to_thread.run_sync(lambda: self.ask(call, seconds=seconds), limiter=self._limiter)

    def create(self, config: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """Make a container; the engine's answer. Raises `EngineUnavailable`, `EngineRefused`."""
        self.before_container()
        return dict(self.ask(lambda client: client.create_container_from_config(config, name), seconds=LONG_SECONDS))

    def remove(self, container: str) -> bool:
        """Remove a container with its anonymous volumes, running or not; whether it is gone. If not, `left` has it."""
        gone = not self.silent and self._try_to_remove(container)
        if not gone:
            self.left.add(container)
        return gone

    def _try_to_remove(self, container: str) -> bool:
        try:
            self.ask(lambda client: client.remove_container(container, v=True, force=True), seconds=LONG_SECONDS)
        except EngineRefused as error:
            return error.status == 404
        except EngineUnavailable:
            return False
        return True

    def give_up(self) -> None:
        """Make no more calls, and hang up those that are under way, as far as it is an engine of this machine."""
        with self._lock:
            self._closed = True
            clients = list(self._clients.values())
        for client in clients:
            if self.local_socket:
                client.hang_up()

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            self._closed = True
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _client(self, seconds: float) -> APIClient:
        with self._lock:
            if self._closed:
                raise EngineUnavailable("this manager is closed", "Make a new one")
            if (client := self._clients.get(seconds)) is not None:
                return client
        made = self._new_client(seconds)
        with self._lock:
            if seconds not in self._clients and not self._closed:
                self._clients[seconds] = made
                return made
        made.close()  # another thread was first
        return self._client(seconds)

    def _new_client(self, seconds: float) -> APIClient:
        from docker import APIClient

        from .unix import LocalClient, UnixAdapter

        oldest = ".".join(map(str, _OLDEST_API))
        try:
            options = {**self._endpoint.options(), "version": oldest, "timeout": seconds, "num_pools": _THREADS}
            made = LocalClient(self.local_socket, **options) if self.local_socket else APIClient(**options)
        except NoEndpoint as error:
            raise EngineUnavailable(str(error), error.remedy) from None
        made.trust_env = False  # neither a proxy, nor certificates that are for web sites instead of ours
        try:
            if self.local_socket:
                made.get_adapter(made.base_url).close()
                made._custom_adapter = UnixAdapter(self.local_socket, seconds=seconds, connections=_THREADS)
                made.mount("http+docker://", made._custom_adapter)
            made._version = self._version or self._spoken(made._retrieve_server_version())
        except BaseException:
            made.close()
            raise
        self._version = made._version  # the next client need not wait for an answer
        return made

    def _spoken(self, newest: str) -> str:
        """The version of the API to speak with an engine whose newest one this is. Raises `EngineUnavailable`."""
        try:
            major, minor = map(int, newest.split("."))
        except ValueError:
            raise EngineUnavailable(f"what answers at {self.url} is no engine: its API is {newest!r}") from None
        if (major, minor) < _OLDEST_API:
            raise EngineUnavailable(
                f"the engine at {self.url} speaks API {newest}, and {'.'.join(map(str, _OLDEST_API))} is needed",
                "Install Docker 20.10 or newer",
            )
        return ".".join(map(str, min((major, minor), _NEWEST_API)))

    def _miss(self) -> None:
        self._missed += 1
        self._missed_at = time.monotonic()
        self._facts = None

    def _unreachable(self, error: Exception, seconds: float) -> EngineUnavailable:
        if number_in(error) == errno.EACCES:
            return EngineUnavailable(
                f"you may not use the engine at {self.url} (permission denied)",
                "Join the group docker (sudo usermod -aG docker $USER) and log in again, or use rootless Docker",
            )
        if "timed out" in str(error):
            return EngineUnavailable(f"the engine at {self.url} did not answer within {seconds:g} s")
        if number_in(error) in (errno.EMFILE, errno.ENFILE):
            return EngineUnavailable(
                f"this process has too many files open to ask the engine at {self.url}",
                "Run fewer jobs at once, or allow more (ulimit -n)",
            )
        if isinstance(error, NotWell):
            return self.not_served(error.status, "")
        if (answer := answer_in(error)) is not None:
            return self.not_served(*answer)
        return EngineUnavailable(f"no engine answers at {self.url}: {why(error)}")

    def not_served(self, status: int, words: str) -> EngineUnavailable:
        """What to raise for a call that was answered with this, and that every engine serves."""
        phrase = _phrase(status)
        said = f", {words!r}" if words and words != phrase else ""
        return EngineUnavailable(
            f"what answers at {self.url} refused a call of an engine's API ({status} {phrase}{said})",
            "Where a proxy stands before the engine, have it let every call pass; else set DOCKER_HOST to where the "
            "engine listens, or choose another --runner",
        )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"

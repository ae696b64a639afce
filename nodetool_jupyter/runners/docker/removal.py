"""What could not be removed and must be: tried again and again, by a thread that is there only while it is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable

AGAIN_SECONDS = 1.0
_TIMES_WHEN_UNSURE = 15


class Removal:
    """Names to be removed. `attempt` says whether one is gone. From any thread."""

    def __init__(self, attempt: Callable[[str], bool]) -> None:
        self._attempt = attempt
        self._lock = threading.Lock()
        self._times: dict[str, int] = {}
        self._then: dict[str, Callable[[], object]] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def add(self, name: str, *, unsure: bool = False, then: Callable[[], object] | None = None) -> None:
        """Have it removed. unsure: it may not be there yet, so that it must be gone for a while to be believed.

        then: called once when it is gone, or nobody tries any more.
        """
        with self._lock:
            if then is not None:
                self._then[name] = then
            self._times[name] = _TIMES_WHEN_UNSURE if unsure else 1
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="nodetool-docker-removal", daemon=True)
                self._thread.start()

    @property
    def waiting(self) -> list[str]:
        """What is not known to be gone."""
        with self._lock:
            return list(self._times)

    def close(self) -> list[str]:
        """Try no more; what may still be there. Waits for the attempt that is under way."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()
        while self._then:
            self._then.popitem()[1]()
        return self.waiting

    def _run(self) -> None:
        while not self._over():
            for name in self.waiting:
                if not self._closed.is_set() and self._attempt(name):
                    self._gone(name)
            self._closed.wait(AGAIN_SECONDS)

    def _over(self) -> bool:
        with self._lock:
            if not self._times or self._closed.is_set():
                self._thread = None
                return True
            return False

    def _gone(self, name: str) -> None:
        with self._lock:
            self._times[name] -= 1
            if self._times[name]:
                return
            del self._times[name]
            then = self._then.pop(name, None)
        if then is not None:
            then()

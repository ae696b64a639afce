"""A socket between the SDK and an engine that holds chosen calls, or loses the answer to them."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

_CHUNK = 64 << 10
_CALL = re.compile(rb"(?:GET|POST|DELETE|HEAD|PUT) (\S+) HTTP/1\.1\r\n")


class Held:
    """A kind of call: `reached` is set when one has come; it goes on to the engine after `release`."""

    def __init__(self, pattern: str) -> None:
        self.pattern = re.compile(pattern.encode())
        self.reached = threading.Event()
        self.released = threading.Event()
        self.loses_answer = False

    def release(self) -> None:
        """Let it, and all later ones, pass."""
        self.released.set()


class Proxy:
    """Listens at `url` until `close`; one thread a connection and direction."""

    def __init__(self, engine_url: str, folder: Path) -> None:
        self.url = f"unix://{folder / 'proxy.sock'}"
        self._engine = engine_url.removeprefix("unix://")
        self._rules: list[Held] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.url.removeprefix("unix://"))
        self._listener.listen(64)
        self._start(self._accept)

    def hold(self, pattern: str) -> Held:
        """Hold calls whose path this is found in, from now on."""
        held = Held(pattern)
        self._rules.append(held)
        return held

    def lose_answer(self, pattern: str) -> Held:
        """Let the first such call pass to the engine, and hang up instead of passing its answer on."""
        held = Held(pattern)
        held.loses_answer = True
        self._rules.append(held)
        return held

    def close(self) -> None:
        """Hang up everywhere."""
        for held in self._rules:
            held.release()
        for one in [self._listener, *self._open]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, function: object, *args: object) -> None:
        thread = threading.Thread(target=function, args=args, name="test-proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                theirs, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, theirs)

    def _serve(self, theirs: socket.socket) -> None:
        with theirs, socket.socket(socket.AF_UNIX) as ours:
            self._open += [theirs, ours]
            with suppress(OSError):
                ours.connect(self._engine)
                lost = threading.Event()
                answers = threading.Thread(target=self._answers, args=(ours, theirs, lost), daemon=True)
                answers.start()
                self._calls(theirs, ours, lost)
                answers.join()

    def _calls(self, theirs: socket.socket, ours: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := theirs.recv(_CHUNK):
                found = _CALL.match(data)
                for held in self._rules if found else ():
                    if found and held.pattern.search(found[1]) and not held.released.is_set():
                        held.reached.set()
                        if held.loses_answer:
                            held.release()
                            lost.set()
                        else:
                            held.released.wait()
                ours.sendall(data)
        with suppress(OSError):
            ours.shutdown(socket.SHUT_WR)

    def _answers(self, ours: socket.socket, theirs: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := ours.recv(_CHUNK):
                if lost.is_set():
                    break
                theirs.sendall(data)
        with suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)

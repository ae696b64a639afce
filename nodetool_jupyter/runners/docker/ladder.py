"""The stop of a container, step by step: interrupt, terminate, kill. Each step is a call of its own deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor

from .engine import Engine, EngineRefused, EngineUnavailable

UNKILLABLE_SECONDS = 10.0
_PATIENCE = 5


class Ladder:
    """Stops one container. On the loop on which it is made.

    `sent` is what was sent, each with the seconds after the first. `given_up` is called when the container is
    still there long after it was killed, or the engine can't be asked to.
    """

    def __init__(self, engine: Engine, container: str, executor: Executor, given_up: Callable[[], None]) -> None:
        self._engine = engine
        self._container = container
        self._executor = executor
        self._given_up = given_up
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._began: float | None = None
        self._killing = False
        self.sent: list[tuple[str, float]] = []

    def begin(self, grace_seconds: float) -> None:
        """Climb, if nobody does yet."""
        if self._began is not None:
            return
        self._began = time.monotonic()
        steps = [("SIGKILL", 0.0)] if grace_seconds <= 0 else [
            ("SIGINT", 0.0), ("SIGTERM", grace_seconds / 2), ("SIGKILL", grace_seconds)
        ]  # fmt: skip
        for name, after in steps:
            self._timers.append(self._loop.call_later(after, self._step, name))
        self._timers.append(self._loop.call_later(grace_seconds + UNKILLABLE_SECONDS, self._judge, _PATIENCE))

    def end(self) -> None:
        """The container is gone: no further step."""
        for timer in self._timers:
            timer.cancel()

    def _judge(self, patience: int) -> None:
        """Give up on a container that is still there, later if the engine says that it does what it can."""
        if self._killing and patience:
            self._timers.append(self._loop.call_later(UNKILLABLE_SECONDS, self._judge, patience - 1))
        else:
            self._given_up()

    def _step(self, name: str) -> None:
        self.sent.append((name, time.monotonic() - (self._began or 0.0)))
        self._executor.submit(self._send, name)

    def _send(self, name: str) -> None:
        try:
            self._engine.ask(lambda client: client.kill(self._container, name))
        except EngineUnavailable:
            return
        except EngineRefused as error:
            if error.status == 409 and name == "SIGKILL":  # paused: only then does a kill not reach it
                _unfreeze(self._engine, self._container)
        self._killing = name == "SIGKILL"


def _unfreeze(engine: Engine, container: str) -> None:
    try:
        engine.ask(lambda client: client.unpause(container))
        engine.ask(lambda client: client.kill(container, "SIGKILL"))
    except (EngineRefused, EngineUnavailable):
        return

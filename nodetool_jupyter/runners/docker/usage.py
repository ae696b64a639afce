"""What a container uses, as the engine streams it once a second."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...events import UsageUpdate
from .engine import Engine, EngineRefused, EngineUnavailable
from .lines import Line

_SILENCE_SECONDS = 30.0


class UsageStream:
    """Reads the stream in a thread until it is stopped; calls `measured` on the loop on which it is made."""

    def __init__(self, engine: Engine, container: str, measured: Callable[[UsageUpdate], None]) -> None:
        self._engine = engine
        self._container = container
        self._measured = measured
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._line: Line | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin in half a second: most jobs are over by then."""
        self._timer = self._loop.call_later(0.5, self._begin)

    def stop(self) -> None:
        """End it; returns at once."""
        self._stopped.set()
        if self._timer:
            self._timer.cancel()
        if self._line is not None:
            self._line.close()

    def _begin(self) -> None:
        threading.Thread(target=self._read, name="nodetool-usage", daemon=True).start()

    def _read(self) -> None:
        try:
            self._engine.ask(self._follow, seconds=_SILENCE_SECONDS)
        except (EngineRefused, EngineUnavailable):
            return

    def _follow(self, client: Any) -> None:
        line = self._line = Line(
            client, "GET", f"/containers/{self._container}/stats", params={}, seconds=_SILENCE_SECONDS
        )
        try:
            if not self._stopped.is_set():
                line.open()
                self._tell(line)
        finally:
            line.end()

    def _tell(self, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines:
            if self._stopped.is_set():
                return
            usage = usage_of(line)
            if usage is not None:
                try:
                    self._loop.call_soon_threadsafe(self._measured, usage)
                except RuntimeError:  # the manager has ended
                    return


def usage_of(stats: Mapping[str, Any]) -> UsageUpdate | None:
    """One line of the engine's stream; `None` for one that says nothing, as after the container's end."""
    memory = stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    detail = memory.get("stats") or {}
    cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    used = max(0, memory["usage"] - cache)
    return UsageUpdate(
        memory_bytes=used,
        peak_memory_bytes=memory.get("max_usage", 0) or used,
        cpu_seconds=round(((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage", 0) / 1e9, 3),
        processes=(stats.get("pids_stats") or {}).get("current", 0),
    )

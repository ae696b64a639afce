"""Which waiting job may start: first in, first out behind each gate, but for what else one of them waits."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from itertools import count, islice

from .errors import QueueFull

QUEUE_LIMIT = 10_000


class Admission:
    """Counts the jobs that run and keeps those that wait, in order.

    gates: the setting that bounds each, to how many jobs may be behind it at once. passes: runner to the gates
    that its jobs go through; a runner that is not named goes through none. `reserve` and `give_up` may be called from
    any thread, the rest from the manager's only.
    """

    def __init__(self, gates: Mapping[str, int], passes: Mapping[str, tuple[str, ...]]) -> None:
        self._gates = dict(gates)
        self._passes = dict(passes)
        self._inside: Counter[str] = Counter()
        self._waiting: dict[str, str] = {}
        self._lines: dict[str, OrderedDict[str, int]] = {}
        self._numbers = count()
        self._places = 0
        self._lock = threading.Lock()

    def reserve(self) -> None:
        """Take a place in the queue for a job that is about to be stored. Raises `QueueFull`."""
        with self._lock:
            if self._places >= QUEUE_LIMIT:
                raise QueueFull(QUEUE_LIMIT)
            self._places += 1

    def give_up(self) -> None:
        """Give a reserved place back."""
        with self._lock:
            self._places -= 1

    def join(self, job_id: str, runner: str) -> None:
        """Put a job that has a place at the end of the queue."""
        self._waiting[job_id] = runner
        self._lines.setdefault(runner, OrderedDict())[job_id] = next(self._numbers)

    def leave(self, job_id: str) -> None:
        """Take a job out of the queue, if it waits there."""
        runner = self._waiting.pop(job_id, None)
        if runner is not None:
            del self._lines[runner][job_id]
            self.give_up()

    def waits_for(self, job_id: str) -> str:
        """What keeps a waiting job from starting, as in "waits for one of 2 places (DOCKER_MAX_JOBS)"; else ""."""
        full = [gate for gate in self._passes.get(self._waiting.get(job_id, ""), ()) if self._full(gate)]
        if not full:
            return ""
        fewest = min(full, key=self._gates.__getitem__)
        places = self._gates[fewest]
        return f"waits for {'the only place' if places == 1 else f'one of {places} places'} ({fewest.upper()})"

    def admit(self, ready: Callable[[str], bool] = lambda job_id: True) -> list[str]:
        """The jobs that may start now; each counts as running until `done`.

        ready: whether a job that has a place can use it; one that can't waits on and keeps nobody else from starting.
        """
        admitted = []
        for job_id, gates in self._with_a_place():
            if ready(job_id):
                self._inside.update(gates)
                admitted.append(job_id)
        for job_id in admitted:
            self.leave(job_id)
        return admitted

    def _with_a_place(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The jobs whose gates are open when it is their turn, in order; those behind a full one cost nothing."""
        heads: list[tuple[int, str, tuple[str, ...], Iterator[tuple[str, int]]]] = []
        for runner, line in self._lines.items():
            rest = iter(line.items())
            for job_id, number in islice(rest, 1):
                heappush(heads, (number, job_id, self._passes.get(runner, ()), rest))
        while heads:
            _, job_id, gates, rest = heappop(heads)
            if any(map(self._full, gates)):
                continue
            for following, number in islice(rest, 1):
                heappush(heads, (number, following, gates, rest))
            yield job_id, gates

    def done(self, runner: str) -> None:
        """A job of this runner has ended and makes room."""
        self._inside.subtract(self._passes.get(runner, ()))

    def _full(self, gate: str) -> bool:
        return self._inside[gate] >= self._gates[gate]

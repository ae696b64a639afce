"""Which waiting job may start: first in, first out behind each gate, but for what else one of them waits."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

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
        self._waiting: OrderedDict[str, str] = OrderedDict()
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

    def leave(self, job_id: str) -> None:
        """Take a job out of the queue, if it waits there."""
        if self._waiting.pop(job_id, None) is not None:
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
        closed: set[str] = {gate for gate in self._gates if self._full(gate)}
        for job_id, runner in list(self._waiting.items()):
            gates = self._passes.get(runner, ())
            if closed and closed.intersection(gates):
                if len(closed) == len(self._gates):
                    break
                continue
            if not ready(job_id):
                continue
            self.leave(job_id)
            self._inside.update(gates)
            admitted.append(job_id)
            closed.update(gate for gate in gates if self._full(gate))
        return admitted

    def done(self, runner: str) -> None:
        """A job of this runner has ended and makes room."""
        self._inside.subtract(self._passes.get(runner, ()))

    def _full(self, gate: str) -> bool:
        return self._inside[gate] >= self._gates[gate]

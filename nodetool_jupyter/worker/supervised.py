"""One job's processes under the supervisor: a stop's ladder, limits by watching, the proof that all are gone."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any

from . import nonresident, tree
from .cgroups import Evidence, Group

STRAYS_SECONDS = 1.0
UNKILLABLE_SECONDS = 10.0
_NUDGES_SECONDS = (0.02, 0.2)
_WATCH_SECONDS = 0.25
_USAGE_SECONDS = 1.0
_RETRY_SECONDS = 0.002
_PATIENCE_SECONDS = 0.05
_SHELLS = 128  # as a shell, bubblewrap ends with this and the number of the signal that ended the one inside

Members = Callable[[], set[int]]


class Supervised:
    """A leader and everything that it started.

    `enclosed`: the leader is bubblewrap, which a signal would end at once, and with it all that is inside. What
    stops a job goes to the job's own first process, and how that ended is what bubblewrap says.
    `gone` is true once the leader is reaped, no other process is left and the group is removed.
    Times are of the monotonic clock. `members` lists the living processes, see `census.Census`.
    """

    def __init__(
        self,
        job: str,
        pid: int,
        *,
        group: Group | None,
        watched: dict[str, float],
        folder: str,
        enclosed: bool = False,
    ) -> None:
        self.job = job
        self.pid = pid
        self.group = group
        self.folder = folder
        self._enclosed = enclosed
        self._inside: int | None = None
        self.starting = True
        self.failed_step: tuple[str, int] | None = None
        self.alive = True
        self.gone = False
        self.stuck = False
        self.seen: dict[int, int] = {}
        self._watched = watched
        self._status = 0
        self._steps: list[tuple[float, int]] = []
        self._began: float | None = None
        self._sent: list[tuple[int, float, int]] = []
        self._hit: set[int] = set()
        self._killing_since: float | None = None
        self._nobody_since = math.inf
        self._killed_for = ""
        self._peak = 0
        self._leader_peak = 0
        self._cpu_seconds = self._gone_seconds = 0.0
        self._own: dict[tuple[int, int], float] = {}
        self._evidence = Evidence(0, 0, 0)
        self._next_watch = 0.0
        self._next_usage = math.inf
        self._next_look = math.inf

    def stop(self, grace_seconds: float, now: float) -> None:
        """Begin the ladder: SIGINT now, SIGTERM at half of the grace, SIGKILL at its end. Once only."""
        if self._began is None:
            self._began = now
            if grace_seconds > 0:
                half = now + grace_seconds / 2
                self._steps = [(now, signal.SIGINT), (half, signal.SIGTERM)]
                self._steps += [(at + later, signal.SIGURG) for at in (now, half) for later in _NUDGES_SECONDS]
            self._steps.append((now + grace_seconds, signal.SIGKILL))
            self._steps.sort()

    def end(self, now: float) -> None:
        """The owner is gone: SIGTERM now, SIGKILL a second later, whatever was under way."""
        self._began = now if self._began is None else self._began
        self._steps = [(now, signal.SIGTERM), (now + STRAYS_SECONDS, signal.SIGKILL)]

    def leader_ended(self, status: int, *, peak_bytes: int, cpu_seconds: float, now: float) -> None:
        """The leader was reaped; `status` is its exit code or the negative number of a signal."""
        self.alive = False
        self._status = _SHELLS - status if self._enclosed and status > _SHELLS else status
        self._leader_peak = peak_bytes
        self._cpu_seconds = max(self._cpu_seconds, cpu_seconds)
        self._next_look = now
        self._began = now if self._began is None else self._began
        self._steps = [step for step in self._steps if step[0] < now + STRAYS_SECONDS]
        self._steps.append((now + STRAYS_SECONDS, signal.SIGKILL))

    def want_usage(self, wanted: bool, now: float) -> None:
        """Report usage every second from now on, or no more."""
        self._next_usage = now + _USAGE_SECONDS if wanted else math.inf

    def due(self) -> float:
        """When `tick` must be called next at the latest."""
        watch = self._next_watch if self._watched and self.alive and self._killing_since is None else math.inf
        usage = self._next_usage if self.alive else math.inf
        return min(watch, usage, self._next_look, self._steps[0][0] if self._steps else math.inf)

    def tick(self, now: float, members: Members) -> dict[str, Any] | None:
        """Do what is due. Returns a report of usage if that was."""
        while self._steps and self._steps[0][0] <= now:
            _, number = self._steps.pop(0)
            if number == signal.SIGKILL:
                self._begin_kill(now)
            elif number == signal.SIGURG:  # see `process`: it makes a lost interrupt be found
                tree.send(self._first(), number)
            else:
                self._signal(number, now, members)
        if self._watched and self.alive and self._killing_since is None and now >= self._next_watch:
            self._next_watch = now + _WATCH_SECONDS
            self._watch(now, members)
        if now >= self._next_look or self._killing_since is not None or not self.alive:
            self._look(now, members)
        if self.alive and now >= self._next_usage:
            self._next_usage = now + _USAGE_SECONDS
            return self.usage(members)
        return None

    def usage(self, members: Members) -> dict[str, Any]:
        """What the job uses now, and the most memory so far."""
        pids = members()
        used = self.group.usage() if self.group else None
        if used:
            memory, cpu = used
        else:
            memory = tree.memory_bytes(pids)
            there = [process for process in map(tree.look, pids) if process]
            cpu = max(sum(process.cpu_seconds for process in there), self._all_own_seconds(there))
        self._peak = max(self._peak, memory)
        self._cpu_seconds = max(self._cpu_seconds, cpu)
        return {
            "memory_bytes": memory,
            "peak_memory_bytes": self._peak,
            "cpu_seconds": self._cpu_seconds,
            "processes": len(pids),
        }

    def _all_own_seconds(self, there: list[tree.Process]) -> float:
        """Processor time of everybody who was ever seen: a parent that ignores its children inherits none of theirs."""
        own = {(process.pid, process.start): process.own_seconds for process in there}
        self._gone_seconds += sum(seconds for who, seconds in self._own.items() if who not in own)
        self._own = own
        return self._gone_seconds + sum(own.values())

    def receipt(self) -> dict[str, Any]:
        """How it ended: the leader's status, what was sent when to how many, and what the kernel counted."""
        return {
            "status": self._status,
            "sent": [(signal.Signals(number).name, round(at, 4), count) for number, at, count in self._sent],
            "by_us": -self._status in self._hit,
            "killed_for": self._killed_for,
            "stuck": self.stuck,
            "reaped": len(self.seen.keys() | {self.pid}) if not self.stuck else 0,
            "oom_kills": self._evidence.oom_kills,
            "peak_memory_bytes": self._most_memory(),
            "refused_forks": self._evidence.refused_forks,
            "cpu_seconds": self._cpu_seconds,
        }

    def _most_memory(self) -> int:
        """Of two that say too much, the lower: a group counts files read, a leader what its warm parent pays for."""
        counted = self._evidence.peak_bytes
        if counted and self._evidence.oom_kills:
            return counted
        return max(self._peak, min(self._leader_peak, counted or self._leader_peak))

    def _signal(self, number: int, now: float, members: Members) -> None:
        """Interrupt the leader's group as a terminal does; terminate everybody."""
        first = self._first()
        if self._enclosed and self.alive and not first:  # the sandbox is not there yet
            self._steps.insert(0, (now + _PATIENCE_SECONDS, number))
            return
        outside = {self.pid} if self._enclosed else set[int]()
        count = tree.send(first if number == signal.SIGINT else members() - outside, number)
        if self.alive:
            self._hit.add(number)
        self._note(number, now, count)

    def _first(self) -> set[int]:
        """The process that runs the job's code, while it lives."""
        if not self.alive or not self._enclosed:
            return {self.pid} if self.alive else set()
        if self._inside is None:
            self._inside = tree.first_inside(self.pid)
        return {self._inside} if self._inside is not None else set()

    def _note(self, number: int, now: float, count: int) -> None:
        if count:
            self._sent.append((number, now - (self._began if self._began is not None else now), count))

    def _begin_kill(self, now: float) -> None:
        if self._killing_since is None:
            self._killing_since = self._next_look = now
            if self.alive:
                self._hit.add(signal.SIGKILL)

    def _look(self, now: float, members: Members) -> None:
        """See who is left; kill them if it is time; tidy up when there is nobody."""
        pids = members()
        if self._killing_since is not None and pids:
            self._kill(pids, now)
        if self.alive or pids or self.starting:
            waited = now - self._killing_since if self._killing_since is not None else math.inf
            self._next_look = now + (_RETRY_SECONDS if waited < _PATIENCE_SECONDS else _PATIENCE_SECONDS)
            self.stuck = self.stuck or UNKILLABLE_SECONDS <= waited < math.inf
            return
        self._nobody_since = min(self._nobody_since, now)
        self._tidy(now)

    def _kill(self, pids: set[int], now: float) -> None:
        if not any(number == signal.SIGKILL for number, _, _ in self._sent):
            self._note(signal.SIGKILL, now, len(pids))
        if self.group:
            self.group.kill()
        tree.send(pids, signal.SIGKILL)

    def _tidy(self, now: float) -> None:
        if self.group:
            self._cpu_seconds = max(self._cpu_seconds, self.group.cpu_seconds())
            self._evidence = self.group.evidence()
            if not self.group.remove() and now < self._nobody_since + STRAYS_SECONDS:
                self._next_look = now + _RETRY_SECONDS
                return
            self.group = None
        self.gone = True
        self._next_look = math.inf

    def _watch(self, now: float, members: Members) -> None:
        """End the job where it passed a limit that nothing else holds."""
        pids = members()  # once: without groups every process of the machine is looked at
        used = self.usage(lambda: pids)
        if "pids" in self._watched and tree.count_threads(pids) > self._watched["pids"]:
            self._killed_for = "pids"
        elif used["cpu_seconds"] >= self._watched.get("cpu_seconds", math.inf):
            self._killed_for = "cpu_seconds"
        elif self._passes_memory(used["memory_bytes"], pids):
            self._killed_for = "memory_bytes"
        if self._killed_for:
            self._begin_kill(now)

    def _passes_memory(self, resident_bytes: int, pids: set[int]) -> bool:
        """Counts what is resident, and what is held without that; in a sandbox there is no shared memory to hold."""
        most = self._watched.get("memory_bytes", math.inf)
        if most == math.inf:
            return False
        beside = nonresident.of_processes(pids) + sum(map(nonresident.in_sockets, self._inside_of(pids)))
        shared = 0 if self._enclosed else nonresident.shared(pids, self.seen.keys())
        if resident_bytes + beside + shared <= most:
            return False
        if shared:
            shared = max(0, shared - tree.proportional_bytes(pids, only_shmem=True))
        return tree.proportional_bytes(pids) + beside + shared > most

    def _inside_of(self, pids: set[int]) -> set[int]:
        """A process of the sandbox, which has a network of its own; none where the job has the machine's."""
        if not self._enclosed:
            return set()
        return self._first() & pids or set(sorted(pids - {self.pid})[-1:])

"""Which living processes belong to which job, also those that left their parent, session or group."""

from __future__ import annotations

from . import tree
from .supervised import Supervised


class Census:
    """The jobs of one supervisor, which is the reaper of everything that they start.

    A process belongs to the job in whose cgroup it is, from whose leader it descends, in whose
    session it is, with which it was seen before, or that its environment names. One of which none
    is true (it daemonised and cleared its environment between two looks) may be of any job that
    ran then: it counts to the last of them to end. Sessions in `apart` are of no job: the warm parents'.
    """

    def __init__(self) -> None:
        self.apart: set[int] = set()
        self.jobs: dict[str, Supervised] = {}
        self._unclaimed: dict[tuple[int, int], set[str]] = {}

    def discard(self, job: str) -> None:
        """The job is gone; nothing belongs to it any more."""
        self.jobs.pop(job, None)
        for candidates in self._unclaimed.values():
            candidates.discard(job)

    def by_leader(self) -> dict[int, Supervised]:
        """The jobs whose leader is not reaped yet, by its number."""
        return {each.pid: each for each in self.jobs.values() if each.alive}

    def members(self, supervised: Supervised) -> set[int]:
        """Every living process of the job, as `tree.speaker` has it."""
        strays = self._strays(supervised)
        found = supervised.group.members() if supervised.group else set()
        if supervised.alive:
            found.add(supervised.pid)
        table: dict[int, tree.Process] = {}
        if strays or (supervised.alive and not supervised.group):
            table = tree.everyone()
            found |= tree.below(found | strays, table)
        living = set()
        for pid in found:
            process = table.get(pid) or tree.look(pid)
            if process and process.lives:
                supervised.seen[pid] = process.start
                living.add(tree.speaker(process))
        return living

    def _strays(self, supervised: Supervised) -> set[int]:
        leaders = self.by_leader()
        orphans = [pid for pid in tree.children_of_this_process() if pid not in leaders]
        return {pid for pid in orphans if self._is_of(supervised, pid)}

    def _is_of(self, supervised: Supervised, pid: int) -> bool:
        process = tree.look(pid)
        if process is None or not process.lives or process.session in self.apart:
            return False
        owner = self._owner(process)
        if owner:
            return owner == supervised.job
        candidates = self._unclaimed.setdefault((process.pid, process.start), set(self.jobs))
        return candidates <= {supervised.job}

    def _owner(self, process: tree.Process) -> str:
        for job, each in self.jobs.items():
            if each.seen.get(process.pid) == process.start or process.session == each.pid:
                return job
        for job, each in self.jobs.items():
            if each.group and process.pid in each.group.members():
                return job
        named = tree.job_of(process.pid)
        return named if named in self.jobs else ""

"""Jobs in memory, for `ENV=test`: they are gone with the process."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence

import msgspec

from ..errors import JobExists, StoreError
from ..events import AnyEvent
from ..jobs import Job, JobStatus
from .base import Change, Owner, conflict
from .batches import Batch, cut, pack


class MemoryStore:
    """A `JobStore` without any file."""

    def __init__(self) -> None:
        self.warnings: Sequence[str] = ()
        self._lock = threading.Lock()
        self._open = False
        self._jobs: dict[str, Job] = {}
        self._batches: dict[str, list[Batch]] = {}
        self._owners: dict[str, Owner] = {}

    def open(self) -> None:
        """Make the store usable; what it held before `close` is there again."""
        self._open = True

    def close(self) -> None:
        """Make the store unusable."""
        self._open = False

    def commit(self, changes: Sequence[Change]) -> None:
        """Write all changes or none; see `JobStore.commit`."""
        packed = [(change.job.id, pack(change)) for change in changes]
        with self._held():
            checked: dict[str, Job] = {}
            for change in changes:
                stored = checked.get(change.job.id) or self._jobs.get(change.job.id)
                _check(change, stored)
                checked[change.job.id] = _changed(change.job, stored)
            self._jobs.update(checked)
            for job_id, batch in packed:
                if batch is not None:
                    self._batches.setdefault(job_id, []).append(batch)

    def get(self, job_id: str) -> Job | None:
        """The job with exactly this id."""
        with self._held():
            return self._jobs.get(job_id)

    def find(
        self,
        *,
        user: str | None = None,
        owner: str | None = None,
        statuses: Collection[JobStatus] | None = None,
        prefix: str = "",
        work_hash: str = "",
        labels: Mapping[str, str] | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[Job]:
        """Jobs, newest first; see `JobStore.find`."""
        with self._held():
            fitting = [
                job
                for job in self._jobs.values()
                if (user is None or job.user == user)
                and (owner is None or job.owner == owner)
                and (statuses is None or job.status in statuses)
                and job.id.startswith(prefix)
                and (not work_hash or job.request.work_hash == work_hash)
                and (not labels or labels.items() <= job.request.labels.items())
                and (before is None or job.created_at < before)
            ]
        return sorted(fitting, key=lambda job: (job.created_at, job.id), reverse=True)[: max(0, limit)]

    def read(self, job_id: str, *, after: int = 0, limit: int = 10_000) -> list[AnyEvent]:
        """Events above `after`, at most `limit`."""
        with self._held():
            batches = self._batches.get(job_id, [])
            start = bisect_right(batches, after, key=lambda batch: batch[1])
            wanted = [batch for batch in batches[start : start + max(0, limit)] if batch[0] <= after + limit]
        return cut(wanted, after, limit)

    def register(self, owner: Owner) -> None:
        """Make a manager known."""
        with self._held():
            self._owners[owner.id] = owner

    def unregister(self, owner_id: str) -> None:
        """Forget a manager."""
        with self._held():
            self._owners.pop(owner_id, None)

    def heartbeat(self, owner_id: str) -> bool:
        """Say that a manager lives."""
        with self._held():
            owner = self._owners.get(owner_id)
            if owner is not None:
                self._owners[owner_id] = msgspec.structs.replace(owner, beat=owner.beat + 1)
            return owner is not None

    def owners(self) -> list[Owner]:
        """Every manager that is registered."""
        with self._held():
            return list(self._owners.values())

    def delete(self, job_ids: Collection[str]) -> int:
        """Remove final jobs with their events."""
        with self._held():
            found = [self._jobs[job_id] for job_id in set(job_ids) if job_id in self._jobs]
            going = [job.id for job in found if job.status.final]
            for job_id in going:
                del self._jobs[job_id]
                self._batches.pop(job_id, None)
            return len(going)

    def _held(self) -> threading.Lock:
        if not self._open:
            raise StoreError("The job store is not open. Call open() first.")
        return self._lock


def _check(change: Change, stored: Job | None) -> None:
    if change.expected_version == 0:
        if stored is not None:
            raise JobExists(change.job.id)
    elif (
        stored is None
        or stored.version != change.expected_version
        or stored.status.final
        or stored.last_seq != change.job.last_seq - len(change.events)
    ):
        raise conflict(change, stored)


def _changed(job: Job, stored: Job | None) -> Job:
    if stored is None or job.request is stored.request:
        return job
    return msgspec.structs.replace(
        job, user=stored.user, owner=stored.owner, created_at=stored.created_at, request=stored.request
    )

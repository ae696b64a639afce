"""The protocol of job stores: durable jobs, their events in order, and who owns them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from ..errors import StoreConflict
from ..events import AnyEvent
from ..jobs import Job, JobStatus


class Owner(Struct, frozen=True):
    """A manager that supervises jobs: a process told apart by pid, start time and boot of the machine.

    `start_ticks` and `boot_id` are the kernel's own (`/proc/<pid>/stat` field 22, `boot_id`), so that
    a number used again is never taken for the same process. `kernel_id` is Jupyter's, or "". `beat`
    grows with each `heartbeat`, for those who can't look at the process.
    """

    id: str
    user: str
    host: str
    boot_id: str
    pid: int
    start_ticks: int
    kernel_id: str = ""
    beat: int = 0


class Change(Struct, frozen=True):
    """One atomic step of one job: its new state and the events that go with it, already stamped.

    `expected_version` is the version that the store must still hold; 0 means that the job is new. The
    events are those up to `job.last_seq`, without a gap. A job's user, owner, `created_at` and request
    are written once; what a later change says of them is not looked at.
    """

    job: Job
    expected_version: int
    events: tuple[AnyEvent, ...] = ()


def conflict(change: Change, stored: Job | None) -> StoreConflict:
    """Why a change doesn't fit what is stored."""
    job, expected = change.job, change.expected_version
    if stored is None:
        why = "it is not in the job store (any more)"
    elif stored.status.final:
        why = f"it is {stored.status.value} already, which is final"
    elif stored.version != expected:
        why = f"version {stored.version} is stored, but version {expected} was expected; somebody else changed it"
    else:
        why = f"event {stored.last_seq} is its last, so {len(change.events)} more can't end at {job.last_seq}"
    return StoreConflict(f"Job {job.id} can't be changed: {why}.", job_id=job.id)


class JobStore(Protocol):
    """Jobs and events. Methods block; `commit` is called from one thread at a time, reads from any.

    A final job never changes again. Every method raises `StoreError` with a remedy when the store
    can't be used.
    """

    def open(self) -> None:
        """Create or check the schema. Sets a damaged file aside and says so in `warnings`."""
        ...

    def close(self) -> None:
        """Release every connection and file."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences for the person about what `open` had to do, and what `find` had to leave out."""
        ...

    def commit(self, changes: Sequence[Change]) -> None:
        """Write all changes in one transaction.

        Raises `StoreConflict` when a version is not the expected one, `JobExists` for a new job whose
        id is taken, both with `job_id`; then nothing of any of them is written. `StoreBusy` and
        `StorageFull` say that the same changes may be tried again.
        """
        ...

    def get(self, job_id: str) -> Job | None:
        """The job with exactly this id."""
        ...

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
        """Jobs, newest first; `before` is a `created_at` to go on from. `prefix` begins the id.

        `labels`: all that a job must have. A job that can't be read is left out and said so in `warnings`;
        `get` of it raises `StoreError`.
        """
        ...

    def read(self, job_id: str, *, after: int = 0, limit: int = 10_000) -> list[AnyEvent]:
        """Events with `seq` above `after`, in order, at most `limit` of them, and fewer where they are large.

        Only an empty list says that there are no more.
        """
        ...

    def register(self, owner: Owner) -> None:
        """Make a manager known, so that its jobs can be told from a dead one's."""
        ...

    def unregister(self, owner_id: str) -> None:
        """Forget a manager that ended in order; it has no open jobs any more."""
        ...

    def heartbeat(self, owner_id: str) -> bool:
        """Say that a manager lives, every 30 s. `False`: it is not registered (any more)."""
        ...

    def owners(self) -> list[Owner]:
        """Every manager that is registered."""
        ...

    def delete(self, job_ids: Collection[str]) -> int:
        """Remove final jobs with their events; others are left alone. Returns how many went."""
        ...

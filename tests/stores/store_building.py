"""Jobs and changes for tests, as a manager would write them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import msgspec

from nodetool_jupyter.events import AnyEvent, JobUpdate, Stream, stamp
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus, Reason, Usage, advance
from nodetool_jupyter.stores.base import Change, JobStore

RUNNING = (JobStatus.STARTING, JobStatus.RUNNING)
COMPLETED = (*RUNNING, JobStatus.COMPLETED)
_numbers = count(1)


def url_of(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


def set_aside(path: Path) -> list[str]:
    """The names of the damaged files that were put beside a database."""
    return sorted(found.name for found in path.parent.glob(path.name + ".corrupt-*"))


def new(
    job_id: str = "", *, created_at: float = 0.0, user: str = "ann", owner: str = "o1", **request: object
) -> Change:
    """The change that makes a job known, with its first event."""
    number = next(_numbers)
    work = request.pop("work", CodeWork("print(1)"))
    job = Job(
        id=job_id or f"job{number:06}",
        user=user,
        owner=owner,
        request=JobRequest(work=work, **request),  # type: ignore[arg-type]
        created_at=created_at or 1000.0 + number,
        last_seq=1,
    )
    return Change(job, 0, (stamp(JobUpdate(status="queued"), job.id, 1, job.created_at),))


def step(job: Job, status: JobStatus, *events: AnyEvent, **changes: object) -> Change:
    """A change of status with its event, after other events."""
    following = advance(job, status, **changes)
    return _change(job, following, [*events, JobUpdate(status=status.value)])


def prints(job: Job, *texts: str) -> Change:
    """Output of a job, one event per text."""
    following = msgspec.structs.replace(job, version=job.version + 1)
    return _change(job, following, [Stream(name="stdout", text=text) for text in texts])


def _change(job: Job, following: Job, events: Sequence[AnyEvent]) -> Change:
    stamped = tuple(stamp(event, job.id, job.last_seq + n, 2000.0) for n, event in enumerate(events, 1))
    return Change(msgspec.structs.replace(following, last_seq=job.last_seq + len(events)), job.version, stamped)


def stored(store: JobStore, job_id: str = "", *, through: Sequence[JobStatus] = (), **fields: object) -> Job:
    """A job in the store that went through some statuses."""
    change = new(job_id, **fields)  # type: ignore[arg-type]
    store.commit([change])
    for status in through:
        ending = {"ended_at": change.job.created_at + 1, "reason": Reason.ERROR if status == "failed" else None}
        change = step(change.job, status, **(ending if status.final else {}))
        store.commit([change])
    return change.job


def rich_job() -> Change:
    """A job with every field set, and with text that is hard to keep."""
    change = new("everything", user="Zoë", name="π\n\t'\"; DROP TABLE jobs --", labels={"a": "b"}, work_hash="h1")
    job = msgspec.structs.replace(
        change.job,
        status=JobStatus.FAILED,
        started_at=1700000000.123456,
        ended_at=1700000001.654321,
        duration_seconds=1.5308650000001,
        reason=Reason.OUT_OF_MEMORY,
        message="NUL \0 and 😀",
        usage=Usage(memory_bytes=1 << 40, peak_memory_bytes=1 << 41, cpu_seconds=0.1, processes=7),
    )
    return Change(job, 0, change.events)

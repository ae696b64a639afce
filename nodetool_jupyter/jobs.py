"""The vocabulary of jobs: statuses and their one transition table, reasons, requests, limits."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from .containers import ContainerOptions
from .errors import InvalidRequest, StoreConflict


class JobStatus(StrEnum):
    """Where a job stands. `PAUSED` and `SUSPENDED` are reserved."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in _FINAL


_S = JobStatus
TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    _S.QUEUED: frozenset({_S.STARTING, _S.CANCELLED, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.CANCELLING, _S.FAILED}),
    _S.RUNNING: frozenset({_S.PAUSED, _S.SUSPENDED, _S.CANCELLING, _S.COMPLETED, _S.FAILED}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.CANCELLING, _S.FAILED}),
    _S.SUSPENDED: frozenset({_S.RUNNING, _S.CANCELLING, _S.FAILED}),
    _S.CANCELLING: frozenset({_S.CANCELLED, _S.COMPLETED, _S.FAILED}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
_FINAL = tuple(status for status, following in TRANSITIONS.items() if not following)


class Reason(StrEnum):
    """Why a job failed."""

    ERROR = "error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    LIMIT = "limit"
    KILLED = "killed"
    CRASHED = "crashed"
    PROTOCOL = "protocol"
    NO_RESULT = "no_result"
    START_FAILED = "start_failed"
    LOST = "lost"
    STORAGE = "storage"
    UNKILLABLE = "unkillable"


class Profile(StrEnum):
    """How much a job is trusted."""

    TRUSTED = "trusted"
    DEFAULT = "default"
    UNTRUSTED = "untrusted"


class ResourceLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a job may use; `None` means that nobody asked for a limit.

    `best_effort`: run even where a limit can't be held, with a warning.
    """

    wall_seconds: float | None = None
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    shm_bytes: int | None = None
    cpu_seconds: int | None = None
    open_files: int | None = None
    file_size_bytes: int | None = None
    best_effort: bool = False

    def asked(self) -> dict[str, float]:
        """The limits that are set, by field name."""
        if self == _NO_LIMITS:
            return {}
        return {name: value for name in LIMIT_NAMES if (value := getattr(self, name)) is not None}


_NO_LIMITS = ResourceLimits()
_TRANSFER_BYTES, _UNTRUSTED_TRANSFER_BYTES = 1 << 30, 32 << 20
LIMIT_NAMES = tuple(name for name in ResourceLimits.__struct_fields__ if name != "best_effort")


class CodeWork(Struct, frozen=True, tag="code", tag_field="kind"):
    """A cell's code: `source` as typed, `code` after IPython's transform (empty: the same)."""

    source: str
    code: str = ""
    filename: str = "<cell>"

    @property
    def runnable(self) -> str:
        """The Python text that is compiled."""
        return self.code or self.source


class JobRequest(Struct, frozen=True, kw_only=True):
    """What somebody wants run. Stored as it is, so it holds no values and no secrets.

    `fresh`: in an interpreter that starts anew, not in one forked from a warm parent. `max_transfer_bytes`: `None`
    when nobody asked for a limit.
    """

    work: CodeWork
    runner: str = "threaded"
    profile: Profile = Profile.DEFAULT
    limits: ResourceLimits = ResourceLimits()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    name: str = ""
    labels: dict[str, str] = {}
    python: str = ""
    fresh: bool = False
    cwd: str = ""
    grace_seconds: float = 5.0
    max_output_bytes: int = 1 << 20
    max_log_bytes: int = 256 << 20
    max_transfer_bytes: int | None = None
    work_hash: str = ""
    rerun_of: str = ""
    container: ContainerOptions = ContainerOptions()

    @property
    def most_bytes_in(self) -> int:
        """The largest value that may travel into the job."""
        return self.max_transfer_bytes or _TRANSFER_BYTES

    @property
    def most_bytes_back(self) -> int:
        """The largest that may come back; of an untrusted job, all together."""
        usual = _UNTRUSTED_TRANSFER_BYTES if self.profile is Profile.UNTRUSTED else _TRANSFER_BYTES
        return self.max_transfer_bytes or usual

    @property
    def may_unpickle(self) -> bool:
        """Whether pickles come back from the job: only where there is no boundary that they would cross."""
        return self.profile is Profile.TRUSTED or (self.profile is Profile.DEFAULT and self.runner != "docker")


def checked(request: JobRequest) -> JobRequest:
    """The request as it will be stored and read again. Raises `InvalidRequest` for a field of a wrong type."""
    try:
        return msgspec.convert(msgspec.to_builtins(request), JobRequest, strict=True)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidRequest(f"The job can't be asked for like this: {error}. Nothing was started.") from None


class Usage(Struct, frozen=True):
    """What a job used so far or at most: bytes, seconds of processor time, processes."""

    memory_bytes: int = 0
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    processes: int = 0


class Job(Struct, frozen=True, kw_only=True):
    """One execution of a request, never run twice under one id.

    `owner` is the manager that supervises it, `user` whose job it is. Times are seconds since the
    epoch, for display; durations are measured elsewhere on the monotonic clock. `version` grows by
    one with each change and guards against a second writer; `last_seq` is the last event's number.
    """

    id: str
    user: str
    owner: str
    request: JobRequest
    created_at: float
    status: JobStatus = JobStatus.QUEUED
    started_at: float | None = None
    ended_at: float | None = None
    duration_seconds: float | None = None
    reason: Reason | None = None
    message: str = ""
    usage: Usage = Usage()
    version: int = 1
    last_seq: int = 0

    @property
    def label(self) -> str:
        """What a person sees as the job's name."""
        return self.request.name or self.id[:8]


def advance(job: Job, status: JobStatus, **changes: Any) -> Job:
    """The job after a change of status; the only place that checks `TRANSITIONS`.

    Raises `StoreConflict` when the status may not follow the present one.
    """
    if status not in TRANSITIONS[job.status]:
        raise StoreConflict(f"Job {job.id} is {job.status.value}; it can't become {status.value}.")
    return msgspec.structs.replace(job, status=status, version=job.version + 1, **changes)

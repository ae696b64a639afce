"""Managers as processes: which one this is, which are dead, and what becomes of a dead one's jobs."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from ..errors import StoreConflict
from ..events import JobUpdate, stamp
from ..jobs import Job, JobStatus, Reason, advance
from .base import Change, JobStore, Owner

HEARTBEAT_SECONDS = 30.0
SILENT_SECONDS = 150.0
OPEN = tuple(status for status in JobStatus if not status.final)
LOST = (
    "The kernel that ran this job died, and the job with it. It is not run again by itself; "
    "run the cell again if you need its result."
)
_CLAIMED_AT_ONCE = 500
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # include/linux/proc_ns.h, PROC_PID_INIT_INO


def this_process(user: str, kernel_id: str = "") -> Owner:
    """An owner, with a new id, for a manager in this process."""
    return Owner(
        id=secrets.token_hex(8),
        user=user,
        host=_host(),
        boot_id=_boot_id(),
        pid=os.getpid(),
        start_ticks=_start_ticks(os.getpid()) or 0,
        kernel_id=kernel_id,
    )


def owner_labels(owner: Owner) -> dict[str, str]:
    """Labels for what an owner makes elsewhere; `labels_gone` reads them."""
    return {"nodetool.owner": owner.id, "nodetool.record": msgspec.json.encode(owner).decode()}


def labels_gone(labels: Mapping[str, str], user: str) -> bool:
    """Whether the owner in these labels was this user's and is dead; `False` for what can't be read."""
    try:
        owner = msgspec.json.decode(labels["nodetool.record"], type=Owner)
    except (KeyError, msgspec.DecodeError):
        return False
    return owner.user == user and not alive(owner)


def alive(owner: Owner) -> bool:
    """Whether the process may still live; always `True` for one on another host, which can't be seen."""
    if owner.host != _host():
        return True
    if owner.boot_id != _boot_id():
        return False
    return _start_ticks(owner.pid) == owner.start_ticks


class DeathWatch:
    """Finds the dead among the registered owners of one user; one instance per manager.

    A process of this host is looked at. One elsewhere is dead when its `beat` stood still for
    `silent_seconds` while this watch was looking: no clock but this process's own is trusted.
    """

    def __init__(
        self, me: Owner, *, silent_seconds: float = SILENT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._me = me
        self._silent_seconds = silent_seconds
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}

    def dead(self, owners: Iterable[Owner]) -> list[Owner]:
        """Which of them are dead by now; to be asked every `HEARTBEAT_SECONDS`."""
        now = self._clock()
        theirs = [owner for owner in owners if owner.user == self._me.user and owner.id != self._me.id]
        before = self._seen
        self._seen = {
            owner.id: before[owner.id] if before.get(owner.id, (None,))[0] == owner.beat else (owner.beat, now)
            for owner in theirs
            if owner.host != self._me.host
        }
        silent = {id_ for id_, (_, since) in self._seen.items() if now - since >= self._silent_seconds}
        return [owner for owner in theirs if owner.id in silent or not alive(owner)]


def claim_lost(store: JobStore, dead: Owner) -> list[Job]:
    """End the open jobs of a dead manager as failed(lost), then forget it; the jobs ended by this call.

    Several managers may do so at once: each job is ended by exactly one of them.
    """
    claimed: list[Job] = []
    while lost := store.find(owner=dead.id, statuses=OPEN, limit=_CLAIMED_AT_ONCE):
        changes = [_lost(job) for job in lost]
        try:
            store.commit(changes)
        except StoreConflict:
            claimed += [change.job for change in changes if _commit_one(store, change)]
        else:
            claimed += [change.job for change in changes]
    store.unregister(dead.id)
    return claimed


def _commit_one(store: JobStore, change: Change) -> bool:
    try:
        store.commit([change])
    except StoreConflict:
        return False
    return True


def _lost(job: Job) -> Change:
    now = time.time()
    failed = advance(job, JobStatus.FAILED, reason=Reason.LOST, message=LOST, ended_at=now, last_seq=job.last_seq + 1)
    update = JobUpdate(status=failed.status.value, message=LOST, error=LOST, reason=Reason.LOST.value)
    return Change(failed, job.version, (stamp(update, job.id, failed.last_seq, now),))


def _host() -> str:
    """The host's name; processes of another PID namespace count as another host, since we don't see them."""
    name = socket.gethostname()
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return name
    return name if namespace == _FIRST_PID_NAMESPACE else f"{name}/{namespace}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil  # type: ignore[import-untyped]

        return f"{psutil.boot_time():.0f}"


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; `None` when it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _start_elsewhere(pid)
    return None if state in {b"Z", b"X"} else int(fields[18])


def _start_elsewhere(pid: int) -> int | None:
    import psutil

    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.Error:
        return None

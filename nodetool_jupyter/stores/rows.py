"""Jobs and owners as rows, and the statements that the store runs, compiled once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.sql import ClauseElement

from ..errors import StoreError
from ..jobs import Job, JobRequest, JobStatus, Reason, Usage
from .base import Owner
from .batches import encoded, readable
from .tables import CLOSED_ONLY, HASHED_ONLY, OPEN_ONLY, batches, jobs, owners


class State(Struct, frozen=True, array_like=True):
    """What changes about a job and is not searched for."""

    started_at: float | None
    ended_at: float | None
    duration_seconds: float | None
    reason: Reason | None
    message: str
    usage: Usage


_state = msgspec.json.Decoder(State)
_request = msgspec.json.Decoder(JobRequest)


def plain(value: str) -> str:
    """Text that every database can hold: lone surrogates and NUL become their escape."""
    if value.isascii() and "\0" not in value:
        return value
    return readable(value).replace("\0", "\\x00")


def changing(job: Job) -> dict[str, Any]:
    """The columns that a change may write."""
    state = State(job.started_at, job.ended_at, job.duration_seconds, job.reason, job.message, job.usage)
    return {
        "id": plain(job.id),
        "status": job.status.value,
        "version": job.version,
        "last_seq": job.last_seq,
        "state": encoded(state),
    }


def lasting(job: Job) -> dict[str, Any]:
    """The columns that are written once."""
    return {
        "user": plain(job.user),
        "owner": plain(job.owner),
        "created_at": job.created_at,
        "work_hash": plain(job.request.work_hash),
        "request": encoded(job.request),
        "labels": "".join(_label(name, value) for name, value in job.request.labels.items()),
    }


def _label(name: str, value: str) -> str:
    """A label as it stands in its column: JSON has no line break of its own, so one is found whole or not at all."""
    return f"\n{encoded([name, value]).decode()}\n"


def job_in(row: Iterable[Any]) -> Job:
    """The job of a row with every column of `jobs`, in order."""
    id_, user, owner, status, created_at, _, version, last_seq, state, request, _ = row
    try:
        changed = _state.decode(state)
        wanted = _request.decode(request)
        standing = JobStatus(status)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise StoreError(f"Job {id_} can't be read from the job store ({error}). Its row is damaged.") from None
    return Job(
        id=id_,
        user=user,
        owner=owner,
        request=wanted,
        created_at=created_at,
        status=standing,
        version=version,
        last_seq=last_seq,
        started_at=changed.started_at,
        ended_at=changed.ended_at,
        duration_seconds=changed.duration_seconds,
        reason=changed.reason,
        message=changed.message,
        usage=changed.usage,
    )


def jobs_in(rows: Iterable[Sequence[Any]]) -> tuple[list[Job], set[str]]:
    """The jobs of several rows, and the ids of those that can't be read."""
    found, unread = [], set()
    for row in rows:
        try:
            found.append(job_in(row))
        except StoreError:
            unread.add(str(row[0]))
    return found, unread


def owner_row(owner: Owner) -> dict[str, Any]:
    """The columns of an owner."""
    values = msgspec.structs.asdict(owner)
    return {name: plain(value) if isinstance(value, str) else value for name, value in values.items()}


def selection(
    *,
    user: str | None,
    owner: str | None,
    statuses: Collection[JobStatus] | None,
    prefix: str,
    work_hash: str,
    labels: Mapping[str, str] | None,
    limit: int,
    before: float | None,
) -> Select[Any]:
    """The query of `JobStore.find`.

    A partial index serves a query that says the index's own words. SQLite keeps no statistics unless it
    is told to, so the columns that are not the narrow one are hidden from its choice of an index.
    """
    columns = jobs.c
    open_only = statuses is not None and not any(status.final for status in statuses)
    query = select(jobs).order_by(columns.created_at.desc(), columns.id.desc()).limit(max(0, limit))
    if statuses is not None:
        query = query.where(columns.status.in_(sorted(status.value for status in statuses)))
    if open_only:
        query = query.where(text(OPEN_ONLY))
    if work_hash:
        query = query.where(_if(not open_only, columns.work_hash) == plain(work_hash), text(HASHED_ONLY))
    if owner is not None:
        query = query.where(_if(not (open_only or work_hash), columns.owner) == plain(owner))
    if user is not None:
        query = query.where(_if(not (open_only or work_hash or owner is not None), columns.user) == plain(user))
    if before is not None:
        query = query.where(columns.created_at < before)
    for name, value in (labels or {}).items():
        # neither LIKE, which SQLite takes for the same in upper case, nor a function that only one of the two has
        query = query.where(func.replace(columns.labels, _label(name, value), "") != columns.labels)
    if prefix:
        start = plain(prefix)
        query = query.where(columns.id >= start, columns.id <= start + "\U0010ffff")
    return query


def _if(indexed: bool, column: Column[str]) -> ColumnElement[str]:
    """The column, or its value as an expression that no index knows."""
    return column if indexed else column.concat("")


class Statements:
    """SQL text with named parameters, for the driver itself: a tenth of the cost of going through Core."""

    def __init__(self, dialect: Dialect, insert_new: Callable[..., Any]) -> None:
        def compiled(statement: ClauseElement) -> str:
            return str(statement.compile(dialect=dialect))

        new = insert_new(jobs).on_conflict_do_nothing(index_elements=[jobs.c.id])
        final = exists().where(jobs.c.id == bindparam("which"), text(CLOSED_ONLY))
        known = insert_new(owners)
        self.insert_job = compiled(new)
        self.update_job = compiled(
            update(jobs)
            .where(
                jobs.c.id == bindparam("which"),
                jobs.c.version == bindparam("expected"),
                jobs.c.last_seq == bindparam("seen"),
                text(OPEN_ONLY),
            )
            .values({name: bindparam(name) for name in ("status", "version", "last_seq", "state")})
        )
        self.stored_job = compiled(select(jobs).where(jobs.c.id == bindparam("which")))
        self.insert_batch = compiled(insert(batches))
        self.stored_batch = compiled(
            select(batches.c.events).where(
                batches.c.job_id == bindparam("which"), batches.c.last_seq == bindparam("seen")
            )
        )
        self.delete_batches = compiled(delete(batches).where(batches.c.job_id == bindparam("which"), final))
        self.delete_job = compiled(delete(jobs).where(jobs.c.id == bindparam("which"), text(CLOSED_ONLY)))
        self.register = compiled(
            known.on_conflict_do_update(
                index_elements=[owners.c.id],
                set_={column.name: known.excluded[column.name] for column in owners.c if column.name != "id"},
            )
        )
        self.unregister = compiled(delete(owners).where(owners.c.id == bindparam("which")))
        self.heartbeat = compiled(
            update(owners).where(owners.c.id == bindparam("which")).values(beat=owners.c.beat + literal_column("1"))
        )

"""One change on its way into the tables, on the driver's own cursor."""

from __future__ import annotations

from typing import Any

from ..errors import JobExists, StoreConflict
from ..jobs import Job
from .base import Change, conflict
from .batches import Batch, pack
from .rows import Statements, changing, job_in, lasting

Row = tuple[Change, dict[str, Any], Batch | None]
"""A change, the columns that it may write, and its events."""


def row_of(change: Change) -> Row:
    """A change, encoded."""
    return change, changing(change.job), pack(change)


def write(cursor: Any, statements: Statements, row: Row, *, in_doubt: bool) -> None:
    """Write one change inside the transaction that is open. Raises `StoreConflict` or `JobExists`.

    in_doubt: the answer to an earlier commit was lost, so that this one may be in the tables already.
    """
    change, columns, batch = row
    if change.expected_version == 0:
        cursor.execute(statements.insert_job, {**columns, **lasting(change.job)})
    else:
        seen = change.job.last_seq - len(change.events)
        guards = {"which": columns["id"], "expected": change.expected_version, "seen": seen}
        cursor.execute(statements.update_job, {**columns, **guards})
    if cursor.rowcount == 1:
        if batch is not None:
            first, last, blob = batch
            events = {"job_id": columns["id"], "first_seq": first, "last_seq": last, "events": blob}
            cursor.execute(statements.insert_batch, events)
    elif not (in_doubt and _taken(cursor, statements, row)):
        raise _refusal(cursor, statements, row)


def _taken(cursor: Any, statements: Statements, row: Row) -> bool:
    """Whether just this change is in the tables: its events, with their times, are there."""
    _, columns, batch = row
    if batch is None:
        stored = _stored(cursor, statements, columns["id"])
        return stored is not None and stored.version >= columns["version"]
    cursor.execute(statements.stored_batch, {"which": columns["id"], "seen": batch[1]})
    found = cursor.fetchone()
    return found is not None and bytes(found[0]) == batch[2]


def _refusal(cursor: Any, statements: Statements, row: Row) -> JobExists | StoreConflict:
    change, columns, _ = row
    if change.expected_version == 0:
        return JobExists(change.job.id)
    return conflict(change, _stored(cursor, statements, columns["id"]))


def _stored(cursor: Any, statements: Statements, job_id: str) -> Job | None:
    cursor.execute(statements.stored_job, {"which": job_id})
    row = cursor.fetchone()
    return None if row is None else job_in(row)

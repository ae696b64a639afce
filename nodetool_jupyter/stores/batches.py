"""Events as they are kept: one row per commit, which `read` cuts exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ..errors import StoreError
from ..events import AnyEvent, decode_batch, encode_batch
from .base import Change

_MOST_BYTES = 4 << 20
Batch = tuple[int, int, bytes]
"""First `seq`, last `seq`, and the events between them as one JSON array."""


def pack(change: Change) -> Batch | None:
    """The row for the events of a change, which end at the job's `last_seq` and have no gap."""
    events = change.events
    if not events:
        return None
    assert events[-1].seq == change.job.last_seq
    assert events[0].seq == change.job.last_seq - len(events) + 1
    try:
        blob = encode_batch(events)
    except UnicodeEncodeError:
        blob = encoded(events)
    return events[0].seq, events[-1].seq, blob


def cut(batches: Iterable[Batch], after: int, limit: int) -> list[AnyEvent]:
    """The events above `after`, at most `limit`, from the batches that may hold them, in order.

    Takes no further batch once it has some MiB.
    """
    found: list[AnyEvent] = []
    taken = 0
    for first, _, blob in batches:
        if len(found) >= limit or taken > _MOST_BYTES:
            break
        taken += len(blob)
        try:
            events = decode_batch(blob)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"An event in the job store can't be read ({error}). The job's log is damaged.") from None
        skipped = max(0, after + 1 - first)
        found += events[skipped : skipped + limit - len(found)]
    return found


def encoded(value: Any) -> bytes:
    """JSON of a value; characters that UTF-8 doesn't have (lone surrogates) become their escape as text."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_readable(msgspec.to_builtins(value)))


def readable(text: str) -> str:
    """The text with lone surrogates, as `os.fsdecode` makes them, written as their escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    return value

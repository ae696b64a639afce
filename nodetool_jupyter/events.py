"""Typed events: what is recorded about a job, and the one encoder and decoder.

An event is flat in JSON: `type`, `job_id`, `seq`, `ts` and the fields of its kind. Kinds and fields
that NodeTool has keep its names. A worker's reports use the same structs; `job_id`, `seq` and `ts`
are then stamped by the manager, whatever the worker wrote.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

Severity = Literal["debug", "info", "warning", "error"]
StreamName = Literal["stdout", "stderr"]
CELL = "cell"


class Event(Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """What every event carries: whose it is, its number (from 1, no gaps), seconds since the epoch."""

    job_id: str = ""
    seq: int = 0
    ts: float = 0.0


class JobUpdate(Event, tag="job_update", frozen=True, kw_only=True, omit_defaults=False):
    """A change of status. The one with a final status is a job's last event.

    options: whose values kept the job from starting, as they stand on a cell's line.
    """

    status: str
    message: str = ""
    result: Any = None
    error: str | None = None
    traceback: str | None = None
    reason: str | None = None
    duration: float | None = None
    options: tuple[str, ...] = ()


class NodeProgress(Event, tag="node_progress", frozen=True, kw_only=True):
    """A progress bar: `progress` of `total` (`None`: unknown). `bar` tells bars of one node apart."""

    node_id: str = CELL
    progress: float
    total: float | None = None
    chunk: str = ""
    bar: str = "0"
    label: str = ""
    unit: str = ""
    depth: int = 0
    closed: bool = False


class LogUpdate(Event, tag="log_update", frozen=True, kw_only=True):
    """A record of the `logging` module."""

    node_id: str = CELL
    node_name: str = ""
    content: str
    severity: Severity = "info"


class Notification(Event, tag="notification", frozen=True, kw_only=True):
    """A sentence for the person: a warning, a leak, a cut."""

    node_id: str = CELL
    content: str
    severity: Severity = "warning"
    code: str = ""


class Stream(Event, tag="stream", frozen=True, kw_only=True):
    """Text that the job wrote."""

    name: StreamName
    text: str


class Display(Event, tag="display", frozen=True, kw_only=True):
    """A MIME bundle, as Jupyter's `display_data` has it (binary types in base64).

    `result`: it is the value of the cell's last expression. `update`: replaces the one shown under
    `display_id`.
    """

    data: dict[str, Any]
    metadata: dict[str, Any] = {}
    display_id: str = ""
    update: bool = False
    result: bool = False


class ClearOutput(Event, tag="clear_output", frozen=True, kw_only=True):
    """What was shown so far goes; with `wait` only when something new comes."""

    wait: bool = False


class OutputUpdate(Event, tag="output_update", frozen=True, kw_only=True):
    """A value came back. `value` is there only when it is small and plain JSON."""

    node_id: str = CELL
    node_name: str = ""
    output_name: str
    value: Any = None
    output_type: str = ""
    metadata: dict[str, Any] = {}


class UsageUpdate(Event, tag="usage", frozen=True, kw_only=True):
    """What the job uses now: bytes, seconds of processor time, processes."""

    memory_bytes: int = 0
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    processes: int = 0


class Isolation(Event, tag="isolation", frozen=True, kw_only=True):
    """What was really in force: the mechanism behind each limit held, and the limits not held."""

    runner: str
    profile: str
    boundary: str = "none"
    held: dict[str, str] = {}
    not_held: tuple[str, ...] = ()
    details: dict[str, Any] = {}


class Signalled(Struct, frozen=True):
    """One step of a stop: which signal, seconds after the stop began, to how many processes."""

    signal: str
    after_seconds: float
    processes: int


class Exit(Event, tag="exit", frozen=True, kw_only=True):
    """How the worker ended, with the receipt of a stop. `limit`: what ended it, or what its code ran into."""

    cause: str = ""
    code: int | None = None
    signal: str | None = None
    limit: str | None = None
    processes_reaped: int = 0
    sent: tuple[Signalled, ...] = ()
    detail: str = ""


AnyEvent = (
    JobUpdate
    | NodeProgress
    | LogUpdate
    | Notification
    | Stream
    | Display
    | ClearOutput
    | OutputUpdate
    | UsageUpdate
    | Isolation
    | Exit
)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)
_list_decoder = msgspec.json.Decoder(list[AnyEvent])


def encode(event: Event) -> bytes:
    """One event as JSON, for the store, SSE, WebSocket and the card."""
    return _encoder.encode(event)


def decode(data: bytes | str) -> AnyEvent:
    """The event back from JSON; `msgspec.ValidationError` when it is none."""
    event: AnyEvent = _decoder.decode(data)
    return event


def encode_batch(events: Iterable[Event]) -> bytes:
    """Events as one JSON array, the form in which the store keeps them."""
    return _encoder.encode(list(events))


def decode_batch(data: bytes) -> list[AnyEvent]:
    """The events of one stored batch."""
    return _list_decoder.decode(data)


def stamp(event: AnyEvent, job_id: str, seq: int, ts: float) -> AnyEvent:
    """The event with its job, number and time, whatever it carried before."""
    stamped: AnyEvent = msgspec.structs.replace(event, job_id=job_id, seq=seq, ts=ts)
    return stamped


def stamped(events: Iterable[AnyEvent], job_id: str, first_seq: int, ts: float) -> list[AnyEvent]:
    """Events with their job, time, and the numbers from `first_seq` on."""
    replace = msgspec.structs.replace
    return [replace(event, job_id=job_id, seq=seq, ts=ts) for seq, event in enumerate(events, first_seq)]


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of every event."""
    return msgspec.json.schema(AnyEvent)

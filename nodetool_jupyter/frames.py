"""What a worker reports: typed, and strictly decoded from the bytes that came on its channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from .errors import ProtocolError
from .events import (
    ClearOutput,
    Display,
    LogUpdate,
    NodeProgress,
    Notification,
    Stream,
    UsageUpdate,
)
from .worker.values import MOST_DEPTH
from .worker.wire import MAX_ARRAY_BYTES

ValueFormat = Literal["json", "bytes", "numpy", "arrow", "pickle", "object"]


class Ready(Struct, frozen=True, tag="ready", tag_field="type"):
    """The worker has booted and waits for its work."""

    protocol: int
    python: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.+]{1,32}\Z")]
    pid: int = 0


class Value(Struct, frozen=True, tag="value", tag_field="type"):
    """A value on its way in or out; `body` holds its buffers of `sizes` bytes one after another.

    `name` is "" for the value of the last expression. `format` "object" is the object itself, as
    `body`, between two threads of one process; it never comes from a channel.
    """

    name: str
    format: ValueFormat
    type_name: str = ""
    sizes: tuple[int, ...] = ()
    meta: dict[str, Any] = {}
    body: Any = None


class FilePart(Struct, frozen=True, tag="file", tag_field="type"):
    """A piece of a file that the job saved, in order; `last` closes it. `given_up`: what came of it is no file."""

    name: str
    last: bool = False
    body: Any = None
    given_up: bool = False


class Returned(Struct, frozen=True, tag="returned", tag_field="type"):
    """The work came to its end; the last report of a job that completed."""


class Raised(Struct, frozen=True, tag="raised", tag_field="type"):
    """The work ended with an exception; the last report of a job that did not complete."""

    ename: str
    evalue: str
    traceback: tuple[str, ...] = ()
    cancelled: bool = False


Shown = Stream | Display | ClearOutput | NodeProgress | LogUpdate | Notification
Report = Ready | Value | FilePart | Returned | Raised | Shown | UsageUpdate
_FromChannel = Ready | Value | FilePart | Returned | Raised | Shown
_decoder = msgspec.json.Decoder(_FromChannel)
_array_decoder = msgspec.json.Decoder(Annotated[list[Returned | Raised | Shown], Meta(min_length=1)])


def decode_frames(frames: Iterable[tuple[bytes, memoryview]]) -> list[Report]:
    """The reports of frames from a channel, in order. Raises `ProtocolError` as `decode_frame` does."""
    reports: list[Report] = []
    for header, body in frames:
        if header.startswith(b"["):
            reports += _decode_array(header, body)
        else:
            reports.append(decode_frame(header, body))
    return reports


def decode_frame(header: bytes, body: memoryview) -> Report:
    """One report from a channel. Raises `ProtocolError` when it is none that a worker may send."""
    report: Report = _decoded(_decoder, header)
    if isinstance(report, Value):
        if report.format == "object" or sum(report.sizes) != len(body) or min(report.sizes, default=0) < 0:
            raise ProtocolError(f"The job sent a value {report.name!r} of a wrong form. It was stopped.")
        return msgspec.structs.replace(report, body=body)
    if isinstance(report, FilePart):
        return msgspec.structs.replace(report, body=bytes(body))
    if len(body):
        raise ProtocolError(f"The job sent a frame {type(report).__name__} with a body. It was stopped.")
    return report


def _decode_array(header: bytes, body: memoryview) -> list[Report]:
    """Reports that came together."""
    if len(header) > MAX_ARRAY_BYTES or len(body):
        size = f"{len(header)} bytes, with {len(body)} behind it"
        raise ProtocolError(f"The job sent several frames in one that is not allowed ({size}). It was stopped.")
    reports: list[Report] = _decoded(_array_decoder, header)
    return reports


def _decoded(decoder: msgspec.json.Decoder[Any], header: bytes) -> Any:
    try:
        decoded = decoder.decode(header)
        if header.count(b"[") + header.count(b"{") > MOST_DEPTH:  # so that what is stored can be read from anywhere
            for report in decoded if isinstance(decoded, list) else [decoded]:
                if isinstance(report, Display) and not _fits(report.data, report.metadata):
                    raise ProtocolError(
                        f"The job sent a frame that is not allowed (deeper than {MOST_DEPTH} levels). It was stopped."
                    )
        return decoded
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"The job sent a frame that is not allowed ({error}). It was stopped.") from None


def _fits(*values: object) -> bool:
    """Whether plain data is no deeper than what may be stored."""
    level: list[Any] = list(values)
    for _ in range(MOST_DEPTH + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return True
    return False

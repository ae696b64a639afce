"""What of an untrusted job's reports gets through to the notebook: text, plain data, pictures that are pictures.

A page of Jupyter runs what it is shown, and a terminal obeys what is written to it. So this is decided here, in the
parent, for every runner alike; nothing that the job says about itself counts.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from .errors import ProtocolError
from .events import Display, LogUpdate, NodeProgress, Notification, Stream
from .frames import FilePart, Raised, Report, Value
from .quantities import format_size

R = TypeVar("R", bound=msgspec.Struct)

_MOST_JSON_BYTES = 256 << 10
_MOST_PIXELS = 64 << 20
_MOST_ERROR_CHARACTERS = 64 << 10
_MOST_WORD_CHARACTERS = 1_000
_TEXTUAL = (Stream, LogUpdate, Notification, NodeProgress)
_ESCAPES = re.compile(
    r"(?P<colour>\x1b\[[0-9;:]*m)"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Screen:
    """Screens one job's reports, in order. `max_bytes`: what its values and files may have altogether."""

    def __init__(self, job_id: str, *, max_bytes: int) -> None:
        self._job_id = job_id
        self._max_bytes = self._left = max_bytes

    def __call__(self, reports: Iterable[Report]) -> list[Report]:
        """What gets through. Raises `ProtocolError` for a pickle, and for more than the job may send."""
        return [self._screened(report) for report in reports]

    def _screened(self, report: Report) -> Report:
        if isinstance(report, _TEXTUAL):
            return _with_plain_texts(report)
        if isinstance(report, Display):
            return self._display(report)
        if isinstance(report, Raised):
            traceback = still("\n".join(report.traceback))[-_MOST_ERROR_CHARACTERS:]
            shorter = _with_plain_texts(report, most=_MOST_ERROR_CHARACTERS)
            return msgspec.structs.replace(shorter, traceback=tuple(traceback.split("\n")) if traceback else ())
        if isinstance(report, Value | FilePart):
            self._count(report)
            return _with_plain_texts(report, most=_MOST_WORD_CHARACTERS)
        return report

    def _count(self, report: Value | FilePart) -> None:
        if isinstance(report, Value) and report.format in ("pickle", "object"):
            raise ProtocolError(
                f"The job is untrusted and sent {plain(report.name)[:80]!r} as a pickle, which is code. It was stopped."
            )
        self._left -= len(report.body) if report.body is not None else 0
        if self._left < 0:
            raise ProtocolError(
                f"The job sent back more than {format_size(self._max_bytes)}, the most that an untrusted one may. "
                "It was stopped. Raise --max-transfer if that is too little."
            )

    def _display(self, shown: Display) -> Display:
        data = {mime: content for mime, content in shown.data.items() if _is_harmless(mime, content)}
        if "text/plain" in data:
            data["text/plain"] = plain(data["text/plain"])
        dropped = sorted(plain(mime)[:80] for mime in shown.data.keys() - data.keys())
        if dropped and not data:
            data = {"text/plain": f"[{', '.join(dropped[:5])}: not shown, the job is untrusted]"}
        # an id of its own: it must not replace what other cells show
        display_id = f"{self._job_id}-{plain(shown.display_id)[:80]}" if shown.display_id else ""
        return msgspec.structs.replace(shown, data=data, metadata={}, display_id=display_id)


def plain(text: str) -> str:
    """The text with its colours, and without every other sequence that a terminal obeys.

    Also when a sequence comes in two texts: its start goes, and the rest is text.
    """
    return _ESCAPES.sub(lambda match: match["colour"] or "", text)


def still(text: str) -> str:
    """As `plain`, and without what moves the cursor back: nothing that was said before is overwritten."""
    return plain(text).replace("\r", "").replace("\b", "")


def _with_plain_texts(report: R, *, most: int | None = None) -> R:
    """The same report, each of its texts plain and no longer than this; only what was written moves the cursor."""
    spoken = plain if isinstance(report, Stream) else _in_one_line if isinstance(report, NodeProgress) else still
    fields = ((name, getattr(report, name)) for name in report.__struct_fields__)
    texts = {name: spoken(value)[:most] for name, value in fields if type(value) is str}
    return msgspec.structs.replace(report, **texts)


def _in_one_line(text: str) -> str:
    return still(text).replace("\n", " ")


def _is_harmless(mime: str, content: object) -> bool:
    if mime == "application/json":
        return len(msgspec.json.encode(content)) <= _MOST_JSON_BYTES
    if not isinstance(content, str):
        return False
    if mime in ("image/png", "image/jpeg"):
        return 0 < _pixels(mime, content) <= _MOST_PIXELS
    return mime == "text/plain"


def _pixels(mime: str, content: str) -> int:
    """How many a picture says that it has; 0 when it is not of this kind."""
    try:
        data = base64.b64decode(re.sub(r"\s", "", content), validate=True)
        width, height = _png_size(data) if mime == "image/png" else _jpeg_size(data)
    except (binascii.Error, ValueError, struct.error, IndexError):
        return 0
    return width * height


def _png_size(data: bytes) -> tuple[int, int]:
    if not data.startswith(_PNG) or data[12:16] != b"IHDR":
        return 0, 0
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    if not data.startswith(_JPEG):
        return 0, 0
    at = 2
    while data[at] == 0xFF:
        if data[at + 1] in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return 0, 0

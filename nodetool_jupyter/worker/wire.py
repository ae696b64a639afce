"""Frames between a worker and its parent: a length-prefixed JSON header and a raw body.

    | header length, u32 | body length, u32 | header: one JSON object, or without a body an array of them | body |

Lengths are big-endian and checked against their caps before anything is allocated. A frame belongs
to the channel that it came on; nothing in it says whose it is.
"""

from __future__ import annotations

import mmap
import os
import struct

from . import PROTOCOL as PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` would double the time that a worker takes to boot
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

PREFIX = struct.Struct("!II")
MAX_HEADER_BYTES = 8 << 20
MAX_ARRAY_BYTES = 512 << 10
MAX_BODY_BYTES = 4_294_967_295
_MAPPED_FROM = 1 << 20

Buffer = bytes | bytearray | memoryview


def _coders() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    """To JSON and back by the part of `json` that is in C: to import the rest takes longer than a whole small job."""
    try:
        from _json import encode_basestring, make_encoder, make_scanner

        def refuse(value: object) -> object:
            raise TypeError(f"{type(value).__name__} is nothing that JSON has")

        # `json` makes it anew for each call, which takes as long as all the rest of it
        chunks = make_encoder(None, refuse, encode_basestring, None, ":", ",", False, False, False)
        hooks = {"object_hook": None, "object_pairs_hook": None, "parse_constant": float}
        context: Any = type("", (), {"strict": True, "parse_float": float, "parse_int": int, **hooks})
        scan = make_scanner(context)
        probe = [{"a": 1.5}, "é", None]
        if scan("".join(chunks(probe, 0)), 0)[0] == probe:
            return lambda value: "".join(chunks(value, 0)), lambda text: scan(text, 0)[0]
    except (ImportError, AttributeError, TypeError):  # a CPython that has changed them
        pass
    import json

    return json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode, json.loads


_encode, _decode = _coders()


class WireError(Exception):
    """The bytes are no frame, or one that is larger than allowed."""


def strict(text: str) -> str:
    """The text with half surrogate pairs, which no strict reader takes, as U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def dumps(value: Any) -> str:
    """Compact JSON of what is plain: text, numbers, and lists and dictionaries of those."""
    return _encode(value)


def encode(header: dict[str, Any], body: Sequence[Buffer] = ()) -> list[Buffer]:
    """The buffers to write for one frame; the body's buffers are not copied."""
    return frame(dumps(header), body)


def frame(header: str, body: Sequence[Buffer] = ()) -> list[Buffer]:
    """The same for a header that is JSON already."""
    data = strict(header).encode()
    size = sum(memoryview(part).nbytes for part in body)
    if len(data) > MAX_HEADER_BYTES or size > MAX_BODY_BYTES:
        raise WireError(f"a frame of {len(data)} + {size} bytes is too large")
    return [PREFIX.pack(len(data), size) + data, *body]


def write(fd: int, buffers: Sequence[Buffer]) -> None:
    """Write all of the buffers to a blocking descriptor."""
    for part in buffers:
        view = memoryview(part).cast("B")
        while view:
            view = view[os.write(fd, view[: 1 << 20]) :]


def read(fd: int, *, max_body_bytes: int = MAX_BODY_BYTES) -> tuple[dict[str, Any], memoryview] | None:
    """The next frame from a blocking descriptor; `None` at end-of-file."""
    prefix = _read_exactly(fd, PREFIX.size)
    if prefix is None:
        return None
    header_size, body_size = PREFIX.unpack(prefix)
    if header_size > MAX_HEADER_BYTES or body_size > max_body_bytes:
        raise WireError(f"a frame of {header_size} + {body_size} bytes is too large")
    header = _read_exactly(fd, header_size)
    body = _read_exactly(fd, body_size)
    if header is None or body is None:
        raise WireError("the channel ended in the middle of a frame")
    try:
        return _decode(str(header, "utf-8")), body
    except (StopIteration, ValueError):
        raise WireError("the header of a frame is no JSON") from None


def _read_exactly(fd: int, size: int) -> memoryview | None:
    target = _allocate(size)
    filled = 0
    while filled < size:
        got = os.readv(fd, [target[filled : filled + (1 << 20)]])
        if not got:
            return None
        filled += got
    return target


def _allocate(size: int) -> memoryview:
    """Memory for `size` bytes; large ones cost nothing before they are filled."""
    return memoryview(mmap.mmap(-1, size)) if size >= _MAPPED_FROM else memoryview(bytearray(size))


class Parser:
    """Cuts a byte stream into frames without ever holding more than the one in progress.

    `feed` yields `(header bytes, body)`; the header is not decoded here, so that the reader can
    check it against its types in one pass.
    """

    def __init__(self, *, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._rest = bytearray()
        self._header = b""
        self._body: memoryview | None = None
        self._filled = 0

    @property
    def idle(self) -> bool:
        """Whether the stream stands between two frames."""
        return not self._rest and self._body is None

    def feed(self, data: Buffer) -> Iterator[tuple[bytes, memoryview]]:
        """The frames that are complete after these bytes. Raises `WireError` on a bad length."""
        view = memoryview(data)
        if self._body is not None:
            view = self._fill(view)
            if self._filled < len(self._body):
                return
            yield self._take()
        if self._rest:
            self._rest += view
            view = memoryview(bytes(self._rest))
            self._rest.clear()
        while len(view) >= PREFIX.size:
            header_size, body_size = PREFIX.unpack_from(view)
            if header_size > MAX_HEADER_BYTES or body_size > self._max_body_bytes:
                raise WireError(f"a frame of {header_size} + {body_size} bytes is too large")
            if len(view) < PREFIX.size + header_size:
                break
            self._header = bytes(view[PREFIX.size : PREFIX.size + header_size])
            self._body, self._filled = _allocate(body_size), 0
            view = self._fill(view[PREFIX.size + header_size :])
            if self._filled < body_size:
                return
            yield self._take()
        self._rest += view

    def _fill(self, view: memoryview) -> memoryview:
        assert self._body is not None
        part = view[: len(self._body) - self._filled]
        self._body[self._filled : self._filled + len(part)] = part
        self._filled += len(part)
        return view[len(part) :]

    def _take(self) -> tuple[bytes, memoryview]:
        assert self._body is not None
        frame = self._header, self._body
        self._header, self._body = b"", None
        return frame

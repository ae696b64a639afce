"""A container's stream, read by the manager: whatever is forged on it ends its own job."""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest

from nodetool_jupyter.errors import ProtocolError
from nodetool_jupyter.runners.docker.attach import Attached, Parts, Reader
from nodetool_jupyter.runners.docker.worker import _number, _told_in
from nodetool_jupyter.worker.container import CHANNEL, NOTE, PART, STDOUT


def part(kind: int, data: bytes, size: int | None = None) -> bytes:
    return PART.pack(kind, len(data) if size is None else size) + data


def framed(data: bytes, *, stream: int = 1) -> bytes:
    """As the engine sends what a container wrote to its stdout (1) or stderr (2)."""
    pieces = [data[at : at + 32_768] for at in range(0, len(data), 32_768)]
    return b"".join(struct.pack("!BxxxI", stream, len(piece)) + piece for piece in pieces)


async def heard(data: bytes) -> tuple[Attached, list[object]]:
    """What becomes of these bytes, when they are all that comes. Raises `ProtocolError` for a bad frame."""
    ours, theirs = socket.socketpair()
    attached = Attached(ours, Parts())
    with theirs:
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(30):
                await loop.sock_sendall(theirs, data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was ended in the middle, which is what some of these are for
    async with asyncio.timeout(30):
        await attached.ended.wait()
    return attached, list(Reader(max_body_bytes=1 << 20).reports(attached.take()))


@pytest.mark.parametrize(
    "data",
    [
        framed(part(9, b"x")),
        framed(part(CHANNEL, b"", 0xFFFFFFFF)),
        framed(part(STDOUT, b"", 65_537)),
        framed(b"\xff" * 1_000),
        framed(part(STDOUT, b"") * 100),
        framed(part(NOTE, b"{}") + part(STDOUT, b"late")),
        framed(part(NOTE, b"{}") * 1_000),
        framed(part(STDOUT, b"x" * 60_000) * 100),
        framed(b"x" * 8_000_000, stream=2),
    ],
    ids=["kind", "length", "long", "noise", "empty", "late", "notes", "more than granted", "words"],
)
def test_what_no_first_process_says_ends_the_stream(data: bytes) -> None:
    attached, _ = asyncio.run(heard(data))
    assert attached.fault


@pytest.mark.parametrize("frame", [b"\xff" * 64, struct.pack("!II", 1 << 31, 4), struct.pack("!II", 2, 0) + b"[]"])
def test_what_no_worker_says_ends_its_job(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        asyncio.run(heard(framed(part(CHANNEL, frame))))


@pytest.mark.parametrize(
    "note",
    [
        "[]",
        "null",
        "{",
        "[" * 10_000,
        '{"status": "x", "left": null, "told": 7, "peak_memory_bytes": 1e999}',
        '{"status": 99999999999999999999, "left": -5, "told": [["SIGKILL"]], "refused_forks": -1}',
        json.dumps({"told": [["SIGINT", "many"]], "status": [1]}),
    ],
)
def test_a_note_of_a_wrong_form_counts_for_nothing(note: str) -> None:
    attached, _ = asyncio.run(heard(framed(part(NOTE, note.encode()))))
    found = attached.note or {}
    assert _told_in(found) == {}
    assert _number(found, "status") == 0


def test_what_came_is_told_in_order_and_text_is_text_whatever_it_looks_like() -> None:
    data = part(STDOUT, b"one ") + part(CHANNEL, b"") * 0 + part(STDOUT, part(CHANNEL, b"x"))
    attached, reports = asyncio.run(heard(framed(data)))
    assert not attached.fault
    assert "".join(report.text for report in reports) == "one " + part(CHANNEL, b"x").decode()

"""The supervisor's channel: whose descriptors are whose, however the kernel cuts the messages."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from nodetool_jupyter.worker.control import Control


@pytest.fixture
def ends() -> Iterator[tuple[Control, Control]]:
    mine, theirs = map(Control, socket.socketpair())
    yield mine, theirs
    mine.close()
    theirs.close()


def named(name: str) -> int:
    """A file in memory that is known by its name."""
    return os.memfd_create(name)


def taken(control: Control, count: int) -> list[str] | None:
    numbers = control.take(count)
    if numbers is None:
        return None
    names = [os.readlink(f"/proc/self/fd/{number}").partition(":")[2].split()[0] for number in numbers]
    for number in numbers:
        os.close(number)
    return names


def test_every_message_has_its_own_descriptors_however_long_it_is(ends: tuple[Control, Control]) -> None:
    mine, theirs = ends
    for n in range(8):
        mine.send({"n": n, "text": "x" * (100_000 if n % 2 else 10)}, [named(f"{n}a"), named(f"{n}b")])
        mine.send({"n": -1})
    found: dict[int, list[str] | None] = {}
    while len(found) < 8:
        mine.flush()
        messages = theirs.receive()
        assert messages is not None
        for message in messages:
            if message["n"] >= 0:
                found[message["n"]] = taken(theirs, 2)
    assert found == {n: [f"{n}a", f"{n}b"] for n in range(8)}


def test_descriptors_that_are_fewer_than_wanted_are_closed(ends: tuple[Control, Control]) -> None:
    mine, theirs = ends
    mine.send({}, [named("a")])
    mine.send({}, [named("b"), named("c")])
    before = set(os.listdir("/proc/self/fd"))
    assert theirs.receive() == [{}]
    assert taken(theirs, 2) is None
    assert set(os.listdir("/proc/self/fd")) == before
    assert theirs.receive() == [{}]
    assert taken(theirs, 2) == ["b", "c"]

"""Containers that wait: who gets which, and that none is forgotten."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from nodetool_jupyter.runners.base import WorkerNotStarted
from nodetool_jupyter.runners.docker.attach import Parts
from nodetool_jupyter.runners.docker.boxes import Box
from nodetool_jupyter.runners.docker.engine import CallOff
from nodetool_jupyter.runners.docker.engine import Engine as Calls
from nodetool_jupyter.runners.docker.idle import IdleStreams
from nodetool_jupyter.runners.docker.pool import StandbyPool
from nodetool_jupyter.runners.docker.spec import ContainerSpec

pytestmark = pytest.mark.anyio
SPEC = ContainerSpec(limits={}, defaults={}, held={}, not_held=(), config={})
GUARD_SECONDS = 60.0


@dataclass
class Bench:
    """A pool whose boxes hold nothing but a socket."""

    executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8))
    closed: list[str] = field(default_factory=list)
    ends: list[socket.socket] = field(default_factory=list)
    made: int = 0
    most: float = math.inf

    def __post_init__(self) -> None:
        self.pool = StandbyPool(self.executor, self._close, most=self.most)

    def _close(self, box: Box) -> None:
        box.connection.close()
        self.closed.append(box.id)

    def make(self, stop: CallOff) -> Box:
        ours, theirs = socket.socketpair()
        self.ends.append(theirs)
        self.made += 1
        return Box(id=f"box-{self.made}", name="", spec=SPEC, connection=ours, parts=Parts(), python="3.11.2")

    def take(self, key: str) -> Box | None:
        """As a job's thread does."""
        return self.executor.submit(self.pool.take, key, CallOff()).result(GUARD_SECONDS)

    async def waiting(self, count: int) -> None:
        async with asyncio.timeout(GUARD_SECONDS):
            while len(self.pool._waiting) != count:
                await asyncio.sleep(0.01)


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(most=getattr(request, "param", math.inf))
    yield made
    made.pool.empty()
    made.executor.shutdown(wait=True)
    for end in made.ends:
        end.close()


def held_back(make: Callable[[CallOff], Box], gate: threading.Event) -> Callable[[CallOff], Box]:
    def wait_and_make(stop: CallOff) -> Box:
        assert gate.wait(GUARD_SECONDS)
        return make(stop)

    return wait_and_make


async def test_a_box_is_given_to_one_job_only(bench: Bench) -> None:
    bench.pool.refill("key", bench.make)
    await bench.waiting(1)
    taken = await asyncio.gather(*(asyncio.to_thread(bench.take, "key") for _ in range(4)))
    [box] = [one for one in taken if one is not None]
    box.connection.close()


async def test_a_job_waits_for_the_box_that_is_being_made_for_its_kind(bench: Bench) -> None:
    gate = threading.Event()
    bench.pool.refill("key", held_back(bench.make, gate))
    job = asyncio.create_task(asyncio.to_thread(bench.take, "key"))
    other = await asyncio.to_thread(bench.take, "another key")
    gate.set()
    box = await asyncio.wait_for(job, GUARD_SECONDS)
    assert box is not None
    assert (other, bench.made) == (None, 1)
    box.connection.close()


async def test_boxes_of_one_kind_are_given_up_those_that_come_among_them(bench: Bench) -> None:
    coming = threading.Event()

    def made_when_stopped(stop: CallOff) -> Box:
        coming.set()
        assert stop.wait(GUARD_SECONDS)
        return bench.make(stop)

    bench.pool.refill("image-a", bench.make)
    bench.pool.refill("image-b", bench.make)
    await bench.waiting(2)
    bench.pool.refill("image-a", made_when_stopped)
    assert await asyncio.to_thread(coming.wait, GUARD_SECONDS)
    await asyncio.to_thread(bench.pool.give_up, "age-a")
    assert len(bench.closed) == 2
    assert await asyncio.to_thread(bench.take, "image-a") is None
    kept = await asyncio.to_thread(bench.take, "image-b")
    assert kept is not None
    assert kept.id not in bench.closed
    kept.connection.close()


@pytest.mark.parametrize("why", [WorkerNotStarted("No."), KeyError("Id")])
async def test_a_box_that_could_not_be_made_leaves_its_job_to_start_without(bench: Bench, why: Exception) -> None:
    gate = threading.Event()

    def fail(stop: CallOff) -> Box:
        assert gate.wait(GUARD_SECONDS)
        raise why

    bench.pool.refill("key", fail)
    job = asyncio.create_task(asyncio.to_thread(bench.take, "key"))
    gate.set()
    assert await asyncio.wait_for(job, GUARD_SECONDS) is None


async def test_a_box_whose_job_was_called_off_waits_for_the_next(bench: Bench) -> None:
    gate, stop = threading.Event(), CallOff()
    bench.pool.refill("key", held_back(bench.make, gate))
    stop.set()
    assert await asyncio.to_thread(bench.pool.take, "key", stop) is None
    gate.set()
    await bench.waiting(1)
    box = await asyncio.to_thread(bench.take, "key")
    assert box is not None
    box.connection.close()


async def test_a_box_whose_container_died_is_closed_and_not_given(bench: Bench) -> None:
    bench.pool.refill("key", bench.make)
    await bench.waiting(1)
    bench.ends[0].close()
    assert await asyncio.to_thread(bench.take, "key") is None
    bench.executor.shutdown(wait=True)
    assert bench.closed == ["box-1"]


async def test_a_box_that_comes_after_the_end_holds_no_connection(bench: Bench) -> None:
    gate = threading.Event()
    bench.pool.refill("key", held_back(bench.make, gate))
    bench.pool.empty()
    gate.set()
    bench.executor.shutdown(wait=True)
    assert bench.closed == ["box-1"]


@pytest.mark.parametrize("bench", [1], indirect=True)
async def test_no_box_waits_beside_the_only_job_and_one_when_it_has_ended(bench: Bench) -> None:
    bench.pool.job_begins("job")
    bench.pool.refill("key", bench.make)
    assert bench.made == 0
    bench.pool.job_ends("job")
    await bench.waiting(1)


@pytest.mark.parametrize("bench", [2], indirect=True)
async def test_a_job_that_finds_no_box_has_one_given_up_for_it(bench: Bench) -> None:
    bench.pool.refill("key", bench.make)
    await bench.waiting(1)
    bench.pool.job_begins("one")
    assert await asyncio.to_thread(bench.take, "another key") is None
    assert bench.closed == []
    bench.pool.job_begins("two")
    assert await asyncio.to_thread(bench.take, "") is None
    assert bench.closed == ["box-1"]


@pytest.mark.parametrize("bench", [1], indirect=True)
async def test_a_job_takes_the_only_box_that_may_be(bench: Bench) -> None:
    bench.pool.refill("key", bench.make)
    await bench.waiting(1)
    bench.pool.job_begins("job")
    box = await asyncio.to_thread(bench.take, "key")
    assert box is not None
    box.connection.close()


@pytest.mark.parametrize("bench", [1], indirect=True)
async def test_a_box_that_is_being_made_is_called_off_for_a_job_of_another_kind(bench: Bench) -> None:
    called_off = threading.Event()

    def make(stop: CallOff) -> Box:
        assert stop.wait(GUARD_SECONDS)
        called_off.set()
        return bench.make(stop)

    bench.pool.refill("key", make)
    bench.pool.job_begins("job")
    assert await asyncio.to_thread(bench.take, "another key") is None
    assert called_off.is_set()
    assert bench.closed == ["box-1"]


@pytest.mark.parametrize("bench", [2], indirect=True)
async def test_an_older_box_of_another_kind_is_closed_before_the_next_is_made(bench: Bench) -> None:
    closed_before: list[list[str]] = []

    def make(stop: CallOff) -> Box:
        closed_before.append(list(bench.closed))
        return bench.make(stop)

    bench.pool.refill("key", bench.make)
    await bench.waiting(1)
    bench.pool.job_begins("job")
    bench.pool.refill("another key", make)
    await bench.waiting(1)
    box = await asyncio.to_thread(bench.take, "another key")
    assert closed_before == [["box-1"]]
    assert box is not None
    box.connection.close()


@pytest.mark.parametrize("taken", [True, False])
async def test_what_a_container_says_is_its_jobs_once_it_has_one(bench: Bench, taken: bool) -> None:
    with closing_pair() as (events, _):
        line, gone = SimpleNamespace(stream=events, end=lambda: None), asyncio.Event()
        engine = cast(Calls, SimpleNamespace(ask=lambda call, seconds: line))
        idle = IdleStreams(engine, label="", ended=lambda _: gone.set())
        loop, box = asyncio.get_running_loop(), bench.make(CallOff())
        watching = threading.Thread(target=idle.watch, args=(lambda: box, loop))
        watching.start()
        watching.join()  # the loop has not come to look at it yet
        if taken:
            idle.release(box)
            loop.call_later(0, gone.set)
        bench.ends[0].send(b"said")
        await asyncio.wait_for(gone.wait(), GUARD_SECONDS)
        await asyncio.sleep(0)  # whoever else reads has read
        assert [box.connection.recv(4), ended(box.connection)] == [b"said", not taken]
        idle.close()
        box.connection.close()


async def test_a_box_that_can_not_be_looked_at_is_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    with closing_pair() as (events, _), monkeypatch.context() as lacking:
        line = SimpleNamespace(stream=events, end=lambda: None)
        engine = SimpleNamespace(ask=lambda call, seconds: line, remove=removed.append)
        idle = IdleStreams(cast(Calls, engine), label="", ended=lambda _: None)
        box = bench.make(CallOff())
        lacking.setattr("nodetool_jupyter.runners.docker.idle.os", SimpleNamespace(dup=raises))
        with pytest.raises(OSError, match="too many"):
            idle.watch(lambda: box, asyncio.get_running_loop())
        idle.close()
    assert (removed, box.connection.fileno()) == ([box.id], -1)


def raises(descriptor: int) -> int:
    raise OSError("too many open files")


def ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


@contextmanager
def closing_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        yield one, other

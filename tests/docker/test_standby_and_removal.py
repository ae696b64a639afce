"""Waiting containers and what could not be removed, without an engine."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nodetool_jupyter.runners.base import WorkerNotStarted
from nodetool_jupyter.runners.docker import pool as pools
from nodetool_jupyter.runners.docker import removal
from nodetool_jupyter.runners.docker.attach import Parts
from nodetool_jupyter.runners.docker.boxes import Box
from nodetool_jupyter.runners.docker.engine import CallOff
from nodetool_jupyter.runners.docker.pool import StandbyPool
from nodetool_jupyter.runners.docker.removal import Removal
from nodetool_jupyter.runners.docker.spec import ContainerSpec
from tests.engine.private import until


class FakeBox:
    def __init__(self) -> None:
        self.lives = True
        self.id = str(id(self))

    def alive(self) -> bool:
        return self.lives


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as found:
        yield found


def filled(executor: ThreadPoolExecutor, closed: list[Any]) -> tuple[StandbyPool, list[FakeBox]]:
    made: list[FakeBox] = []

    def make(stop: CallOff) -> Box:
        made.append(FakeBox())
        return cast(Box, made[-1])

    async def fill() -> StandbyPool:
        pool = StandbyPool(executor, closed.append)
        for _ in range(5):
            pool.refill("key", make)
        return pool

    pool = asyncio.run(fill())
    until(lambda: len(pool._waiting) == 2, "two wait, and no more are made of one kind")
    return pool, made


def test_a_waiting_container_is_handed_out_once_to_however_many_ask(executor: ThreadPoolExecutor) -> None:
    pool, made = filled(executor, [])
    with ThreadPoolExecutor(50) as askers:
        taken = [box for box in askers.map(lambda _: pool.take("key", CallOff()), range(200)) if box is not None]
    assert sorted(map(id, taken)) == sorted(map(id, made))


def test_a_container_is_looked_at_whatever_number_its_connection_has() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket(fileno=fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 1500)) as far:
        spec = ContainerSpec(limits={}, defaults={}, held={}, not_held=(), config={})
        box = Box(id="1", name="one", spec=spec, connection=far, parts=Parts(), python="3.11.2")
        assert box.alive()
        other.close()
        assert not box.alive()


def test_a_container_that_has_ended_is_closed_and_not_handed_out(executor: ThreadPoolExecutor) -> None:
    closed: list[Any] = []
    pool, made = filled(executor, closed)
    made[0].lives = False
    pool.drop_dead()
    until(lambda: closed == [made[0]], "it is closed")
    made[1].lives = False
    assert pool.take("key", CallOff()) is None
    assert closed == made


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Timers:
    """A loop on which nothing is due until a test says so."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self.due.append((seconds, callback))
        return cast(asyncio.TimerHandle, self)


def test_a_container_that_waited_for_minutes_is_closed_and_a_younger_one_later(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, timers = Clock(), Timers()
    closed: list[Any] = []
    made: list[FakeBox] = []
    monkeypatch.setattr(pools, "time", clock)
    monkeypatch.setattr(pools, "asyncio", SimpleNamespace(get_running_loop=lambda: timers))
    pool = StandbyPool(executor, closed.append)

    def make(stop: CallOff) -> Box:
        made.append(FakeBox())
        return cast(Box, made[-1])

    def refill() -> None:
        before = len(made)
        pool.refill("key", make)
        until(lambda: len(made) > before and not pool._coming, "it waits")

    refill()
    clock.now += 100
    refill()
    [(seconds, expire)] = timers.due
    assert seconds == pools.IDLE_SECONDS
    clock.now += seconds - 100
    expire()
    until(lambda: closed == made[:1], "the first is closed")
    assert [one.box for one in pool._waiting] == made[1:]
    seconds, expire = timers.due.pop()
    assert seconds == 100
    clock.now += seconds
    expire()
    until(lambda: closed == made, "so is the other")
    assert len(timers.due) == 1, "nothing is looked at any more"
    refill()
    assert len(timers.due) == 2


def test_a_container_that_is_ready_after_the_end_is_closed(executor: ThreadPoolExecutor) -> None:
    closed: list[Any] = []
    release, asked = threading.Event(), threading.Event()

    def make(stop: CallOff) -> Box:
        asked.set()
        release.wait()
        assert stop.is_set()
        return cast(Box, FakeBox())

    async def begin() -> StandbyPool:
        pool = StandbyPool(executor, closed.append)
        pool.refill("key", make)
        return pool

    pool = asyncio.run(begin())
    asked.wait()
    pool.empty()
    release.set()
    until(lambda: len(closed) == 1, "it is closed")
    assert pool.take("key", CallOff()) is None


def test_a_container_that_can_not_be_made_keeps_no_place(executor: ThreadPoolExecutor) -> None:
    def make(stop: CallOff) -> Box:
        raise WorkerNotStarted("no")

    async def begin() -> StandbyPool:
        pool = StandbyPool(executor, lambda box: None)
        pool.refill("key", make)
        return pool

    pool = asyncio.run(begin())
    until(lambda: not pool._coming, "its place is free")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "AGAIN_SECONDS", 0.001)


@pytest.mark.usefixtures("hurried")
def test_what_can_not_be_removed_is_tried_until_it_can() -> None:
    answers = [False, False, True]
    left = Removal(lambda name: answers.pop(0))
    left.add("one")
    until(lambda: not left.waiting, "it is gone")
    assert answers == []
    assert left.close() == []


@pytest.mark.usefixtures("hurried")
def test_what_may_not_be_there_yet_is_not_believed_gone_at_once() -> None:
    asked: list[str] = []
    left = Removal(lambda name: not asked.append(name))  # type: ignore[func-returns-value]
    left.add("one", unsure=True)
    until(lambda: not left.waiting, "it is believed")
    assert len(asked) > 5
    assert left.close() == []


def test_what_is_left_in_the_end_is_told() -> None:
    left = Removal(lambda name: False)
    left.add("one")
    assert left.close() == ["one"]
    left.add("two")
    assert set(left.waiting) == {"one", "two"}


@pytest.mark.usefixtures("hurried")
def test_what_a_container_may_still_use_is_kept_until_it_is_gone() -> None:
    there, freed = threading.Event(), []
    there.set()
    left = Removal(lambda name: not there.is_set())
    left.add("one", then=lambda: freed.append("one"))
    left.add("two")
    assert not freed
    there.clear()
    until(lambda: not left.waiting, "both are gone")
    until(lambda: freed == ["one"], "and what the first had is free")
    there.set()
    left.add("three", then=lambda: freed.append("three"))
    assert left.close() == ["three"]
    assert freed == ["one", "three"]

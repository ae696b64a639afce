"""Reading a job's events to their end: what is stored first, then live, across processes too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import anyio

from .events import AnyEvent, JobUpdate
from .feed import Subscription
from .jobs import JobStatus
from .stores.base import JobStore

if TYPE_CHECKING:
    from .engine import Engine
    from .manager import JobExecutionManager

_POLL_SECONDS = 1.0


def ends(event: AnyEvent) -> bool:
    """Whether this is a job's last event."""
    return isinstance(event, JobUpdate) and JobStatus(event.status).final


def _page(store: JobStore, job_id: str, after: int) -> list[AnyEvent]:
    return store.read(job_id, after=after)


async def catch_up(engine: Engine, job_id: str, subscription: Subscription) -> None:
    """Feed a subscription from the store until it has all, or can go on live. On the manager's loop."""
    while subscription.active:
        page = await anyio.to_thread.run_sync(_page, engine.store, job_id, subscription.cursor)
        if page:
            subscription.hear(page)
            if ends(page[-1]):
                return
        elif engine.join(job_id, subscription):
            return
        else:
            job = await anyio.to_thread.run_sync(engine.store.get, job_id)
            if job is None or (job.status.final and job.last_seq <= subscription.cursor):
                return
            if not job.status.final:
                await anyio.sleep(_POLL_SECONDS)


async def follow(manager: JobExecutionManager, job_id: str, after: int) -> AsyncIterator[AnyEvent]:
    """Pages from the store, woken by the live feed; nothing piles up behind a slow reader."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    job = await anyio.to_thread.run_sync(manager.get, job_id)

    def wake(_: Sequence[AnyEvent]) -> None:
        loop.call_soon_threadsafe(news.set)

    cancel = manager.subscribe(job_id, wake, after=job.last_seq)
    try:
        while True:
            news.clear()
            page = await anyio.to_thread.run_sync(_page, manager.store, job_id, after)
            for event in page:
                yield event
                after = event.seq
                if ends(event):
                    return
            if not page:
                with anyio.move_on_after(_POLL_SECONDS):
                    await news.wait()
    finally:
        cancel()

"""Reading a job's events to their end: what is stored first, then live, across processes too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import anyio

from .events import AnyEvent, JobUpdate
from .feed import Listener, Subscription
from .jobs import JobStatus
from .stores.base import JobStore

_POLL_SECONDS = 1.0

Join = Callable[[str, Subscription], bool]
Subscribe = Callable[[Listener], Callable[[], None]]


def ends(event: AnyEvent) -> bool:
    """Whether this is a job's last event."""
    return isinstance(event, JobUpdate) and JobStatus(event.status).final


async def catch_up(store: JobStore, join: Join, job_id: str, subscription: Subscription) -> None:
    """Feed a subscription from the store until it has all, or `join` takes it. On the manager's loop."""
    while subscription.active:
        page = await anyio.to_thread.run_sync(_page, store, job_id, subscription.cursor)
        if page:
            subscription.hear(page)
            if ends(page[-1]):
                return
        elif join(job_id, subscription):
            return
        else:
            job = await anyio.to_thread.run_sync(store.get, job_id)
            if job is None or (job.status.final and job.last_seq <= subscription.cursor):
                return
            if not job.status.final:
                await anyio.sleep(_POLL_SECONDS)


async def follow(store: JobStore, subscribe: Subscribe, job_id: str, after: int) -> AsyncIterator[AnyEvent]:
    """Pages from the store, woken by the live feed; nothing piles up behind a slow reader."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: Sequence[AnyEvent]) -> None:
        loop.call_soon_threadsafe(news.set)

    cancel = await anyio.to_thread.run_sync(subscribe, wake)
    try:
        while True:
            news.clear()
            page = await anyio.to_thread.run_sync(_page, store, job_id, after)
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


def _page(store: JobStore, job_id: str, after: int) -> list[AnyEvent]:
    return store.read(job_id, after=after)

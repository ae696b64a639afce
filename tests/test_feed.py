"""What is remembered of a live job's events, and what a handle holds of a log that is large."""

from __future__ import annotations

import getpass
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from nodetool_jupyter import events as ev
from nodetool_jupyter.feed import Feed, Subscription
from nodetool_jupyter.jobs import JobStatus
from nodetool_jupyter.notebook.handle import JobHandle
from nodetool_jupyter.notebook.session import Session
from nodetool_jupyter.stores.sql import SqlStore
from tests.stores.store_building import RUNNING, prints, step, stored

MIB = 1 << 20


def heard_by_one_who_comes_late(events: Sequence[ev.AnyEvent], after: int) -> list[int] | None:
    """The `seq`s that are remembered for somebody who has heard up to `after`; `None` if not all are."""
    heard: list[int] = []
    subscription = Subscription(lambda batch: heard.extend(event.seq for event in batch), after)

    async def main() -> bool:
        feed = Feed()
        feed.publish(events)
        return feed.join(subscription)

    return heard if anyio.run(main) else None


@pytest.mark.parametrize(
    "large",
    [ev.Stream(name="stdout", text="x" * MIB), ev.Display(data={"image/png": "x" * MIB})],
    ids=["text", "image"],
)
def test_of_large_events_the_newest_few_are_remembered(large: ev.AnyEvent) -> None:
    events = ev.stamped([large] * 10, "job", 1, 0.0)
    assert heard_by_one_who_comes_late(events, 9) == [10]
    assert heard_by_one_who_comes_late(events, 0) is None


def test_of_small_events_many_are_remembered() -> None:
    events = ev.stamped([ev.Stream(name="stdout", text="x")] * 2_000, "job", 1, 0.0)
    assert heard_by_one_who_comes_late(events, 1_000) == list(range(1_001, 2_001))
    assert heard_by_one_who_comes_late(events, 500) is None


def test_a_handle_reads_a_large_log_a_page_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    store = SqlStore(url)
    store.open()
    job = stored(store, through=RUNNING, user=getpass.getuser())
    for _ in range(64):
        change = prints(job, "x" * MIB)
        store.commit([change])
        job = change.job
    store.commit([step(job, JobStatus.COMPLETED, ended_at=1.0)])
    store.close()
    monkeypatch.setenv("ENV", "")
    monkeypatch.setenv("NODETOOL_DATABASE_URL", url)
    session = Session()
    try:
        handle = JobHandle(session, session.manager.get(job.id))
        tracemalloc.start()
        assert handle.result() is None
        assert handle.files == {}
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()
        session.close()

"""The one writer: order, groups, conflicts, and a store that refuses for a while."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from nodetool_jupyter.errors import StorageFull, StoreConflict, StoreDamaged, StoreError
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest
from nodetool_jupyter.ledger import Ledger
from nodetool_jupyter.stores.base import Change
from nodetool_jupyter.stores.memory import MemoryStore


class FailingStore(MemoryStore):
    """Refuses as long as `failing` is set, and tells when it did."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.error: StoreError = StorageFull("No space left on the disk of the store.")
        self.refused = threading.Event()
        self.batches: list[int] = []

    def commit(self, changes: Sequence[Change]) -> None:
        if self.failing:
            self.refused.set()
            raise self.error
        super().commit(changes)
        self.batches.append(len(changes))


class Settled:
    def __init__(self, count: int = 1) -> None:
        self.results: list[tuple[str, Exception | None]] = []
        self._left = threading.Semaphore(0)
        self._count = count

    def __call__(self, change: Change, error: Exception | None) -> None:
        self.results.append((change.job.id, error))
        self._left.release()

    def wait(self) -> list[tuple[str, Exception | None]]:
        for _ in range(self._count):
            assert self._left.acquire(timeout=30)
        return self.results


def new(job_id: str) -> Change:
    return Change(Job(id=job_id, user="me", owner="o", request=JobRequest(work=CodeWork("1")), created_at=1.0), 0)


@pytest.fixture
def store() -> FailingStore:
    made = FailingStore()
    made.open()
    return made


@pytest.fixture
def ledger(store: FailingStore) -> Ledger:
    return Ledger(store, retry_seconds=0.01)


def test_changes_are_settled_in_the_order_in_which_they_were_put(ledger: Ledger) -> None:
    settled = Settled(200)
    for n in range(200):
        ledger.put(new(f"j{n}"), settled)
    ledger.start()
    assert settled.wait() == [(f"j{n}", None) for n in range(200)]
    ledger.close()


def test_what_waits_goes_into_one_transaction(ledger: Ledger, store: FailingStore) -> None:
    settled = Settled(50)
    for n in range(50):
        ledger.put(new(f"j{n}"), settled)
    ledger.start()
    settled.wait()
    ledger.close()
    assert store.batches == [50]


def test_a_conflict_is_told_to_its_own_job_only(ledger: Ledger, store: FailingStore) -> None:
    store.commit([new("taken")])
    settled = Settled(3)
    for job_id in ("a", "taken", "b"):
        ledger.put(new(job_id), settled)
    ledger.start()
    results = dict(settled.wait())
    ledger.close()
    assert results["a"] is results["b"] is None
    assert results["taken"] is not None


def test_a_patient_change_waits_until_the_store_takes_it_again(ledger: Ledger, store: FailingStore) -> None:
    store.failing = True
    settled = Settled()
    ledger.start()
    ledger.put(new("a"), settled)
    assert store.refused.wait(30)
    assert settled.results == []
    store.failing = False
    assert settled.wait() == [("a", None)]
    ledger.close()  # whose thread knows that nothing waits a step later
    assert ledger.trouble is None


def test_it_says_once_why_changes_wait_and_once_that_none_does(store: FailingStore) -> None:
    said: list[StoreError | None] = []
    again = threading.Semaphore(0)

    def tell(error: StoreError | None) -> None:
        said.append(error)
        again.release()

    ledger = Ledger(store, retry_seconds=0.01, tell=tell)
    store.failing = True
    settled = Settled()
    ledger.start()
    ledger.put(new("a"), settled)
    assert again.acquire(timeout=30)
    for _ in range(3):
        store.refused.clear()
        assert store.refused.wait(30)
    store.failing = False
    assert again.acquire(timeout=30)
    ledger.close()
    assert said == [store.error, None]


def test_no_change_waits_for_a_store_that_is_damaged(ledger: Ledger, store: FailingStore) -> None:
    store.failing, store.error = True, StoreDamaged("The job database can't be read any more.")
    settled = Settled()
    ledger.start()
    ledger.put(new("a"), settled)
    assert settled.wait() == [("a", store.error)]
    ledger.close()


def test_an_impatient_change_is_told_at_once(ledger: Ledger, store: FailingStore) -> None:
    store.failing = True
    settled = Settled()
    ledger.start()
    ledger.put(new("a"), settled, patient=False)
    [(_, error)] = settled.wait()
    assert isinstance(error, StoreError)
    assert ledger.trouble is None  # nothing waits
    store.failing = False
    ledger.close()
    assert store.get("a") is None


def test_closing_leaves_nobody_waiting_for_a_store_that_refuses(ledger: Ledger, store: FailingStore) -> None:
    store.failing = True
    settled = Settled()
    ledger.start()
    ledger.put(new("a"), settled)
    assert store.refused.wait(30)
    ledger.close()
    [(_, error)] = settled.wait()
    assert isinstance(error, StoreError)


def test_a_wrong_version_is_a_conflict(ledger: Ledger, store: FailingStore) -> None:
    store.commit([new("a")])
    settled = Settled()
    ledger.start()
    ledger.put(Change(new("a").job, 7), settled)
    [(_, error)] = settled.wait()
    assert isinstance(error, StoreConflict)
    ledger.close()


def test_a_change_that_cannot_be_written_down_is_told_so_and_stops_no_other() -> None:
    class Picky(MemoryStore):
        def commit(self, changes: Sequence[Change]) -> None:
            if any(change.job.id == "odd" for change in changes):
                raise TypeError("Encoding objects of type Odd is unsupported")
            super().commit(changes)

    store = Picky()
    store.open()
    picky = Ledger(store)
    settled = Settled(3)
    for job_id in ("a", "odd", "b"):
        picky.put(new(job_id), settled)
    picky.start()
    results = dict(settled.wait())
    picky.close()
    assert results["a"] is results["b"] is None
    assert isinstance(results["odd"], StoreError)

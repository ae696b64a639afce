"""What every job store does alike."""

from __future__ import annotations

import threading

import msgspec
import pytest

from nodetool_jupyter.errors import JobExists, StoreConflict, StoreError
from nodetool_jupyter.events import NodeProgress, Stream, stamp
from nodetool_jupyter.jobs import CodeWork, JobStatus
from nodetool_jupyter.stores.base import Change, JobStore, Owner
from tests.stores.store_building import COMPLETED, RUNNING, new, prints, rich_job, step, stored

ANN = Owner(id="o1", user="ann", host="h", boot_id="b", pid=1, start_ticks=1 << 40, kernel_id="k")


def seqs(store: JobStore, job_id: str, **options: int) -> list[int]:
    return [event.seq for event in store.read(job_id, **options)]


def test_a_job_comes_back_as_it_was_stored(store):
    change = rich_job()
    store.commit([change])
    assert store.get("everything") == change.job
    assert store.find(user="Zoë") == [change.job]


def test_a_job_that_is_not_there_is_none(store):
    assert store.get("nothing") is None
    assert store.read("nothing") == []


def test_events_come_back_as_they_were_committed(store):
    job = stored(store)
    events = (
        stamp(Stream(name="stderr", text="é\0\n😀"), job.id, 2, 5.25),
        stamp(NodeProgress(progress=0.1, total=None, label="x"), job.id, 3, 5.5),
    )
    store.commit([Change(msgspec.structs.replace(job, version=2, last_seq=3), 1, events)])
    assert store.read(job.id, after=1) == list(events)


def test_large_events_come_in_pages(store):
    job = stored(store)
    for n in range(12):
        change = prints(job, f"{n}" * (1 << 20))
        store.commit([change])
        job = change.job
    pages = [store.read(job.id)]
    assert len(pages[0]) < 10
    while page := store.read(job.id, after=pages[-1][-1].seq):
        pages.append(page)
    assert [event.seq for page in pages for event in page] == list(range(1, 14))


def test_text_that_utf_8_does_not_have_is_kept_readable(store):
    job = stored(store, name="\udc80", user="a\udc80\0n", work=CodeWork("\ud800"))
    store.commit([prints(job, "before \ud800 after")])
    assert store.read(job.id, after=1)[0].text == "before \\ud800 after"
    assert [found.id for found in store.find(user="a\udc80\0n")] == [job.id]


def test_a_taken_id_is_refused_and_named(store):
    first = stored(store, "mine")
    with pytest.raises(JobExists) as refused:
        store.commit([new("other"), new("mine")])
    assert refused.value.job_id == "mine"
    assert store.get("other") is None
    assert store.get("mine") == first


def test_a_conflict_names_the_job_and_nothing_of_any_change_is_written(store):
    jobs = [stored(store) for _ in range(4)]
    store.commit([step(jobs[2], JobStatus.STARTING)])
    with pytest.raises(StoreConflict) as refused:
        store.commit([step(job, JobStatus.STARTING) for job in jobs])
    assert refused.value.job_id == jobs[2].id
    assert [store.get(job.id).version for job in jobs] == [1, 1, 2, 1]
    assert [seqs(store, job.id) for job in jobs] == [[1], [1], [1, 2], [1]]


def test_a_change_of_a_job_that_is_gone_is_a_conflict(store):
    with pytest.raises(StoreConflict, match="not in the job store"):
        store.commit([step(new("gone").job, JobStatus.STARTING)])


def test_a_final_job_never_changes_again(store):
    job = stored(store, through=COMPLETED)
    with pytest.raises(StoreConflict, match="completed"):
        store.commit([prints(job, "late")])
    assert store.get(job.id) == job


def test_events_with_a_gap_are_refused(store):
    job = stored(store)
    late = prints(msgspec.structs.replace(job, last_seq=5), "x")
    with pytest.raises(StoreConflict, match="event"):
        store.commit([late])
    assert seqs(store, job.id) == [1]


def test_changes_of_one_job_may_follow_each_other_in_one_commit(store):
    first = new()
    second = step(first.job, JobStatus.STARTING)
    third = prints(second.job, "a", "b")
    store.commit([first, second, third])
    assert store.get(first.job.id) == third.job
    assert seqs(store, first.job.id) == [1, 2, 3, 4]


def test_the_second_of_two_changes_from_one_version_in_one_commit_is_a_conflict(store):
    job = stored(store)
    with pytest.raises(StoreConflict):
        store.commit([step(job, JobStatus.STARTING), step(job, JobStatus.CANCELLED)])
    assert store.get(job.id) == job


def test_a_change_without_events_is_written(store):
    job = stored(store)
    store.commit([Change(msgspec.structs.replace(job, version=2), 1)])
    assert store.get(job.id).version == 2
    assert seqs(store, job.id) == [1]


def test_committing_nothing_does_nothing(store):
    store.commit([])
    assert store.find() == []


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_every_cursor_and_limit_cuts_batches_exactly(store, limit):
    job = stored(store)
    for size in (1, 4, 2, 3):
        change = prints(job, *"x" * size)
        store.commit([change])
        job = change.job
    for after in range(job.last_seq + 2):
        expected = list(range(after + 1, job.last_seq + 1))[:limit]
        assert seqs(store, job.id, after=after, limit=limit) == expected


def test_events_of_one_job_are_never_shown_for_another(store):
    one, other = stored(store, "ab"), stored(store, "a")
    store.commit([prints(one, "one")])
    assert {event.job_id for event in store.read(one.id)} == {"ab"}
    assert {event.job_id for event in store.read(other.id)} == {"a"}


def test_jobs_are_found_newest_first_and_page_by_page(store):
    ids = [stored(store, f"j{n}", created_at=float(n)).id for n in (3, 1, 2, 5, 4)]
    assert len(ids) == 5
    page = store.find(limit=2)
    assert [job.id for job in page] == ["j5", "j4"]
    assert [job.id for job in store.find(limit=2, before=page[-1].created_at)] == ["j3", "j2"]
    assert store.find(limit=0) == []


def test_every_filter_of_find_holds_alone_and_together(store):
    stored(store, "a1", user="ann", owner="o1", work_hash="h")
    stored(store, "a2", user="ann", owner="o2", through=RUNNING)
    stored(store, "b1", user="bob", owner="o1", through=COMPLETED, work_hash="h")

    def ids(**filters):
        return {job.id for job in store.find(**filters)}

    assert ids() == {"a1", "a2", "b1"}
    assert ids(user="ann") == {"a1", "a2"}
    assert ids(owner="o1") == {"a1", "b1"}
    assert ids(user="ann", owner="o1") == {"a1"}
    assert ids(statuses={JobStatus.RUNNING, JobStatus.COMPLETED}) == {"a2", "b1"}
    assert ids(statuses=[JobStatus.QUEUED]) == {"a1"}
    assert ids(statuses=()) == set()
    assert ids(work_hash="h", user="bob") == {"b1"}
    assert ids(prefix="a") == {"a1", "a2"}
    assert ids(prefix="a1") == {"a1"}
    assert ids(user="nobody") == set()


def test_a_prefix_is_taken_letter_by_letter(store):
    for job_id in ("ab", "aB", "a_", "a%c", "A", "a", "aé"):
        stored(store, job_id)
    assert {job.id for job in store.find(prefix="a")} == {"ab", "aB", "a_", "a%c", "a", "aé"}
    assert {job.id for job in store.find(prefix="a%")} == {"a%c"}
    assert {job.id for job in store.find(prefix="A")} == {"A"}
    assert store.find(prefix="a\0\ud800") == []


def test_only_final_jobs_are_deleted_with_their_events(store):
    done, open_ = stored(store, through=COMPLETED), stored(store, through=RUNNING)
    assert store.delete([done.id, open_.id, "nothing", done.id]) == 1
    assert store.get(done.id) is None
    assert store.read(done.id) == []
    assert store.get(open_.id) == open_
    assert seqs(store, open_.id) == [1, 2, 3]


def test_owners_are_known_until_they_are_forgotten(store):
    other = msgspec.structs.replace(ANN, id="o2")
    store.register(ANN)
    store.register(other)
    store.register(ANN)
    assert sorted(store.owners(), key=lambda owner: owner.id) == [ANN, other]
    store.unregister("o1")
    store.unregister("o1")
    assert store.owners() == [other]


def test_a_heartbeat_counts_and_tells_who_is_forgotten(store):
    store.register(ANN)
    assert store.heartbeat("o1")
    assert store.heartbeat("o1")
    assert [owner.beat for owner in store.owners()] == [2]
    store.unregister("o1")
    assert not store.heartbeat("o1")


def test_readers_in_other_threads_see_whole_commits_only(store):
    job = stored(store)
    faults: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            found = seqs(store, job.id)
            if found != list(range(1, len(found) + 1)) or len(found) % 3 != 1:
                faults.append(f"{found}")

    readers = [threading.Thread(target=watch) for _ in range(3)]
    for reader in readers:
        reader.start()
    last = job
    for _ in range(60):
        change = prints(last, "a", "b", "c")
        store.commit([change])
        last = change.job
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(seqs(store, job.id)) == 181


def test_a_closed_store_says_so_and_can_be_opened_again(store):
    job = stored(store)
    store.close()
    with pytest.raises(StoreError, match="not open"):
        store.get(job.id)
    with pytest.raises(StoreError, match="not open"):
        store.commit([step(job, JobStatus.STARTING)])
    store.open()
    store.open()
    assert store.get(job.id) == job

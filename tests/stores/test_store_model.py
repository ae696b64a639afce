"""Any order of calls on a store gives what a plain dictionary would give."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from nodetool_jupyter.errors import JobExists, StoreConflict
from nodetool_jupyter.jobs import TRANSITIONS, Job, JobStatus
from nodetool_jupyter.stores.base import Change, JobStore
from nodetool_jupyter.stores.memory import MemoryStore
from nodetool_jupyter.stores.sql import SqlStore
from tests.stores.store_building import new, prints, step

IDS = st.sampled_from(["a", "ab", "b", "é", "with'quote"])
USERS = st.sampled_from(["ann", "bob"])


class StoreMachine(RuleBasedStateMachine):
    """Drives a store and a dictionary side by side; some changes start from a state that is too old."""

    seen = Bundle("seen")

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make()
        self.store.open()
        self.jobs: dict[str, Job] = {}
        self.events: dict[str, list] = {}

    def make(self) -> JobStore:
        return MemoryStore()

    def teardown(self) -> None:
        self.store.close()

    def expect(self, changes: list[Change]) -> type[Exception] | None:
        """Apply the changes to the dictionary, all or none; which error the store must raise."""
        jobs, events = dict(self.jobs), {job_id: list(found) for job_id, found in self.events.items()}
        for change in changes:
            job, held = change.job, jobs.get(change.job.id)
            if change.expected_version == 0:
                if held is not None:
                    return JobExists
            elif (
                held is None
                or held.version != change.expected_version
                or held.status.final
                or held.last_seq + len(change.events) != job.last_seq
            ):
                return StoreConflict
            kept = {} if held is None else {"user": held.user, "created_at": held.created_at}
            jobs[job.id] = msgspec.structs.replace(job, **kept)
            events.setdefault(job.id, []).extend(change.events)
        self.jobs, self.events = jobs, events
        return None

    def commit(self, changes: list[Change]) -> None:
        error = self.expect(changes)
        if error is None:
            self.store.commit(changes)
        else:
            with pytest.raises(error):
                self.store.commit(changes)

    @rule(target=seen, job_id=IDS, user=USERS, created_at=st.integers(1, 50))
    def create(self, job_id, user, created_at):
        change = new(job_id, user=user, created_at=float(created_at) + len(self.jobs) / 1000)
        self.commit([change])
        return change.job

    @rule(target=seen, job=seen, data=st.data())
    def advance(self, job, data):
        choices = sorted(TRANSITIONS[job.status])
        if not choices:
            return job
        change = step(job, data.draw(st.sampled_from(choices)))
        self.commit([change])
        return change.job

    @rule(target=seen, job=seen, texts=st.lists(st.text(max_size=5), min_size=1, max_size=4))
    def print(self, job, texts):
        if job.status.final:
            return job
        change = prints(job, *texts)
        self.commit([change])
        return change.job

    @rule(jobs=st.lists(seen, min_size=1, max_size=4))
    def change_several_at_once(self, jobs):
        self.commit([prints(job, "x") for job in jobs if not job.status.final])

    @rule(job_ids=st.lists(IDS, max_size=3))
    def delete(self, job_ids):
        going = {job_id for job_id in job_ids if job_id in self.jobs and self.jobs[job_id].status.final}
        assert self.store.delete(job_ids) == len(going)
        for job_id in going:
            del self.jobs[job_id], self.events[job_id]

    @rule(job_id=IDS, after=st.integers(0, 12), limit=st.integers(1, 6))
    def read(self, job_id, after, limit):
        expected = [event for event in self.events.get(job_id, []) if event.seq > after][:limit]
        assert self.store.read(job_id, after=after, limit=limit) == expected

    @rule(
        user=st.none() | USERS,
        prefix=st.sampled_from(["", "a", "é"]),
        statuses=st.none() | st.sets(st.sampled_from(JobStatus), max_size=3),
        before=st.none() | st.floats(1, 50),
        limit=st.integers(0, 4),
    )
    def find(self, user, prefix, statuses, before, limit):
        expected = sorted(
            (
                job
                for job in self.jobs.values()
                if (user is None or job.user == user)
                and job.id.startswith(prefix)
                and (statuses is None or job.status in statuses)
                and (before is None or job.created_at < before)
            ),
            key=lambda job: job.created_at,
            reverse=True,
        )[:limit]
        found = self.store.find(user=user, prefix=prefix, statuses=statuses, before=before, limit=limit)
        assert [job.id for job in found] == [job.id for job in expected]

    @invariant()
    def holds_what_the_dictionary_holds(self):
        for job_id, job in self.jobs.items():
            found = self.store.get(job_id)
            assert found == job
            assert [msgspec.structs.asdict(e) for e in self.store.read(job_id)] == [
                msgspec.structs.asdict(e) for e in self.events[job_id]
            ]


class SqliteMachine(StoreMachine):
    """The same on a file."""

    def make(self) -> JobStore:
        self.folder = tempfile.TemporaryDirectory(prefix="ntj-model-")
        return SqlStore(f"sqlite:///{Path(self.folder.name)}/jobs.sqlite")

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestMemoryModel = StoreMachine.TestCase
TestMemoryModel.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestSqliteModel = SqliteMachine.TestCase
TestSqliteModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_the_postgres_store_follows_the_model(postgres):
    from hypothesis.stateful import run_state_machine_as_test

    class PostgresMachine(StoreMachine):
        def make(self) -> JobStore:
            return SqlStore(postgres.new_database())

    run_state_machine_as_test(PostgresMachine, settings=settings(max_examples=8, stateful_step_count=25, deadline=None))

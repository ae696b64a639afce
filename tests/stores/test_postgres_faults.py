"""A PostgreSQL store whose server is away, restarts, or doesn't want us."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import msgspec
import psycopg
import pytest
from sqlalchemy import make_url

from nodetool_jupyter.errors import JobExists, StorageFull, StoreBusy, StoreConflict, StoreError
from nodetool_jupyter.jobs import JobStatus
from nodetool_jupyter.stores.base import Change
from nodetool_jupyter.stores.postgres import PostgresDatabase
from nodetool_jupyter.stores.sql import SqlStore
from tests.stores import postgres_server
from tests.stores.store_building import new, prints, rich_job, step, stored

SECRET = "hunter2-secret"


@pytest.fixture
def url(postgres):
    return postgres.new_database()


@pytest.fixture
def own_server(postgres):
    """A server that this test may stop."""
    with postgres_server.running(postgres_server.find_binaries()) as server:
        yield server


def backends(url, postgres):
    """Ends every session of the store under test but the caller's, as an administrator would."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{SECRET}@127.0.0.1:1/jobs",
        f"postgresql+psycopg://ann:{SECRET}@127.0.0.1:1/jobs",
        f"postgresql://ann:{SECRET}@/jobs?host=/nowhere",
        f"postgresql://ann@127.0.0.1:1/jobs?password={SECRET}",
        f"postgresql://ann:{SECRET}/with@signs@127.0.0.1:x/jobs",
        f"mysql://ann:{SECRET}@db/jobs",
        f"postgresql://ann:{SECRET}@db:notaport/jobs",
        f"://ann:{SECRET}@db",
        "jobs.sqlite",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
    ],
)
def test_a_url_that_leads_nowhere_is_one_sentence_without_the_password(url):
    with pytest.raises(StoreError, match="NODETOOL_DATABASE_URL") as refused:
        SqlStore(url).open()
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_password_is_refused_without_showing_it(postgres):
    with pytest.raises(StoreError, match=r"password authentication failed.*NODETOOL_DATABASE_URL") as refused:
        SqlStore(postgres.url("postgres", password=SECRET)).open()
    assert SECRET not in str(refused.value)


def test_a_database_that_is_not_there_is_named(postgres):
    with pytest.raises(StoreError, match=r"does not exist.*NODETOOL_DATABASE_URL"):
        SqlStore(postgres.url("nosuchdatabase")).open()


def test_a_database_without_an_encoding_keeps_jobs_as_any_other(postgres, opened):
    url = postgres.new_database(encoding="SQL_ASCII")
    change = rich_job()
    opened(url).commit([change])
    again = opened(url)
    assert again.get(change.job.id) == change.job
    assert again.find(user="Zoë", labels={"a": "b"}) == [change.job]


def test_what_the_driver_can_not_make_sense_of_is_one_sentence(postgres):
    """A server that speaks another encoding than it was asked for: text comes as bytes."""
    url = postgres.new_database(encoding="SQL_ASCII") + "&client_encoding=SQL_ASCII"
    with pytest.raises(StoreError, match=r"can't be used \(.*NODETOOL_DATABASE_URL") as refused:
        SqlStore(url).open()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert postgres_server.PASSWORD not in str(refused.value)


def test_a_missing_driver_is_one_sentence_with_the_command():
    code = f"""
        import sys
        sys.modules["psycopg"] = None
        from nodetool_jupyter.errors import StoreError
        from nodetool_jupyter.stores.sql import SqlStore
        try:
            SqlStore("postgresql://ann:{SECRET}@db/jobs").open()
        except StoreError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True)
    assert "NODETOOL_DATABASE_URL" in run.stdout
    assert "pip install 'nodetool_jupyter[postgres]'" in run.stdout
    assert SECRET not in run.stdout


def test_sessions_that_the_server_ended_are_made_again(url, opened, postgres):
    store = opened(url)
    job = stored(store)
    backends(url, postgres)
    change = step(job, JobStatus.STARTING)
    with pytest.raises(StoreBusy, match="can't be reached"):
        store.commit([change])
    store.commit([change])
    assert store.get(job.id) == change.job
    backends(url, postgres)
    assert store.get(job.id) == change.job


def test_a_server_that_was_away_gets_the_same_changes_when_it_is_back(own_server, opened):
    store = opened(own_server.new_database())
    job = stored(store)
    change = step(job, JobStatus.STARTING)
    own_server.stop()
    for _ in range(2):
        with pytest.raises(StoreBusy, match="NODETOOL_DATABASE_URL") as refused:
            store.commit([change])
        assert postgres_server.PASSWORD not in str(refused.value)
    with pytest.raises(StoreError, match="NODETOOL_DATABASE_URL"):
        store.get(job.id)
    own_server.start()
    store.commit([change])
    assert store.get(job.id) == change.job
    assert [event.seq for event in store.read(job.id)] == [1, 2]


class LosesTheAnswer:
    """A connection that commits and then, instead of saying so, is gone."""

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def commit(self):
        self._connection.commit()
        self._connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")


def lose_the_next_answer(store, monkeypatch):
    real = store._connected

    def once(engine):
        monkeypatch.setattr(store, "_connected", real)
        return LosesTheAnswer(real(engine))

    monkeypatch.setattr(store, "_connected", once)


def test_a_commit_whose_answer_was_lost_is_not_made_twice(url, opened, monkeypatch):
    store = opened(url)
    first, other = new(), step(stored(store), JobStatus.STARTING)
    second = step(first.job, JobStatus.STARTING)
    silent = Change(msgspec.structs.replace(second.job, version=3), 2)
    lost = [first, other, second, silent]
    lose_the_next_answer(store, monkeypatch)
    with pytest.raises(StoreBusy):
        store.commit(lost)
    assert not store.heartbeat("nobody")
    later = prints(silent.job, "more")
    store.commit([*lost, later])
    assert store.get(other.job.id) == other.job
    assert store.get(later.job.id) == later.job
    assert [event.seq for event in store.read(later.job.id)] == [1, 2, 3]
    with pytest.raises(JobExists):
        store.commit([first])


def test_after_a_lost_answer_another_writers_change_is_still_a_conflict(url, opened, monkeypatch):
    store, rival = opened(url), opened(url)
    job = stored(store)
    rival.commit([step(job, JobStatus.CANCELLED)])
    lose_the_next_answer(store, monkeypatch)
    with pytest.raises(StoreBusy):
        store.heartbeat("nobody")
    with pytest.raises(StoreConflict):
        store.commit([step(job, JobStatus.STARTING)])


def test_a_row_that_somebody_holds_makes_the_store_busy_and_nothing_is_lost(url, opened):
    store = opened(url + "&options=-c%20lock_timeout%3D50")
    job = stored(store)
    change = step(job, JobStatus.STARTING)
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM nodetool_jobs FOR UPDATE")
        with pytest.raises(StoreBusy, match="lock timeout"):
            store.commit([change])
        other.rollback()
    store.commit([change])
    assert store.get(job.id) == change.job


def test_two_managers_that_commit_to_one_job_at_once_never_both_win(url, opened):
    stores = [opened(url) for _ in range(3)]
    wins: list[int] = []
    for _ in range(20):
        job = stored(stores[0])
        start, won = threading.Barrier(3), []

        def cancel(store, job=job, start=start, won=won):
            start.wait()
            try:
                store.commit([step(job, JobStatus.CANCELLED)])
            except StoreConflict:
                return
            won.append(store)

        threads = [threading.Thread(target=cancel, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wins.append(len(won))
        assert [event.seq for event in stores[0].read(job.id)] == [1, 2]
    assert wins == [1] * 20


def test_a_user_without_rights_is_told_so(url, opened, postgres):
    opened(url)
    name = url.split("?")[0].rsplit("/", 1)[1]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    try:
        weak = url.replace(f"{postgres_server.USER}:{postgres_server.PASSWORD}", "weak:weak")
        assert name in weak
        with pytest.raises(StoreError, match=r"permission denied.*user's rights"):
            SqlStore(weak).open()
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP ROLE weak")


def test_a_full_disk_of_the_server_is_told_from_other_errors():
    database = PostgresDatabase(make_url(f"postgresql://ann:{SECRET}@db/jobs"))
    error = psycopg.errors.DiskFull("could not extend file: No space left on device")
    assert isinstance(database.explain(error), StorageFull)
    assert not database.lost(error)


def test_large_output_is_kept(url, opened):
    store = opened(url)
    change = prints(stored(store), "x" * 20_000_000)
    store.commit([change])
    assert len(store.read(change.job.id, after=1)[0].text) == 20_000_000

"""Jobs by their labels, and lists that one damaged row does not spoil."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, make_url, text

from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import JobNotFound, StoreError
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.stores import tables
from tests.stores.store_building import stored


def execute(url, statement, **values):
    parsed = make_url(url)
    engine = create_engine(parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed)
    with engine.begin() as connection:
        connection.execute(text(statement), values)
    engine.dispose()


def damage(url, job_id, column="request"):
    execute(url, f"UPDATE nodetool_jobs SET {column} = :junk WHERE id = :id", junk=b'{"work":', id=job_id)


def found(store, **labels):
    return [job.id for job in store.find(labels=labels)]


def test_jobs_are_found_by_all_the_labels_that_are_asked_for(store):
    stored(store, "one", labels={"a": "1", "b": "2"})
    stored(store, "two", labels={"a": "1"})
    stored(store, "three")
    assert found(store, a="1") == ["two", "one"]
    assert found(store, a="1", b="2") == ["one"]
    assert found(store) == ["three", "two", "one"]
    assert found(store, a="2") == []
    assert found(store, c="1") == []


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [("a", "x", "X"), ("a", "1", "12"), ("a", "%", "b"), ("a", "_", "b"), ("k", "", " "), ("a", '"', "'"),
     ("a", "b\nc", "b"), ("ä", "\0", "\\0"), ("a", 'b"]\n["a","c', "c")],
)  # fmt: skip
def test_a_label_is_found_as_it_is_written_and_not_by_what_is_like_it(store, name, value, other):
    stored(store, "mine", labels={name: value})
    stored(store, "theirs", labels={name: other})
    assert found(store, **{name: value}) == ["mine"]
    assert found(store, **{name: other}) == ["theirs"]


def test_the_limit_counts_jobs_that_have_the_label(store):
    stored(store, "old", labels={"a": "1"})
    for _ in range(3):
        stored(store)
    assert [job.id for job in store.find(labels={"a": "1"}, limit=1)] == ["old"]


def test_the_manager_finds_by_labels(manager, submit):
    job = submit("1", labels={"a": "1"})
    submit("2")
    assert [one.id for one in manager.find(labels={"a": "1"})] == [job.id]


@pytest.mark.parametrize("column", ["request", "state"])
def test_one_row_that_can_not_be_read_is_left_out_and_said_once(url, sql_store, column):
    for job_id in ("good", "bad", "fine"):
        stored(sql_store, job_id)
    damage(url, "bad", column)
    before = list(sql_store.warnings)
    for _ in range(2):
        assert [job.id for job in sql_store.find()] == ["fine", "good"]
    (said,) = sql_store.warnings[len(before) :]
    assert "Job bad can't be read" in said
    assert "only-for-tests" not in said
    with pytest.raises(StoreError, match=r"Job bad can't be read .* Its row is damaged"):
        sql_store.get("bad")


def test_several_rows_that_can_not_be_read_are_said_in_one_sentence(url, sql_store):
    for job_id in ("bad1", "bad2", "good"):
        stored(sql_store, job_id)
    for job_id in ("bad1", "bad2"):
        damage(url, job_id)
    assert [job.id for job in sql_store.find()] == ["good"]
    assert [said for said in sql_store.warnings if "2 jobs, among them bad1, can't be read" in said]


def test_the_manager_passes_on_what_was_left_out_and_says_what_is_wrong_with_it(url):
    settings = Settings({"NODETOOL_DATABASE_URL": url})
    with JobExecutionManager(settings, runners=[]) as manager:
        for job_id in ("good", "bad"):
            stored(manager.store, job_id, user=manager.owner.user)
        damage(url, "bad")
        assert [job.id for job in manager.find()] == ["good"]
        assert [said for said in manager.warnings if "Job bad can't be read" in said]
        assert len(manager.warnings) == len(set(manager.warnings))
        with pytest.raises(StoreError, match="Job bad can't be read"):
            manager.resolve("bad")
        with pytest.raises(JobNotFound):
            manager.resolve("nothing")


def test_a_store_of_before_labels_is_migrated_and_keeps_its_jobs(url, opened):
    store = opened(url)
    job = stored(store, "kept", labels={"a": "1"})
    store.close()
    execute(url, "ALTER TABLE nodetool_jobs DROP COLUMN labels")
    execute(url, "UPDATE nodetool_schema SET number = 1")
    execute(url, f"UPDATE {tables.VERSION_TABLE} SET version_num = '0001'")
    newer = opened(url)
    assert newer.find() == [job]
    stored(newer, "new", labels={"a": "1"})
    assert found(newer, a="1") == ["new"]

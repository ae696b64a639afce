"""The tables: made directly, migrated, and never misread."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing

import pytest
from sqlalchemy import create_engine, event, inspect, make_url, text

from nodetool_jupyter import __version__
from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import StoreError
from nodetool_jupyter.jobs import JobStatus
from nodetool_jupyter.stores import migrations, open_store, tables
from nodetool_jupyter.stores.sql import SqlStore
from tests.stores.store_building import new, stored


def connected(url):
    """An engine of the test's own."""
    parsed = make_url(url)
    return create_engine(parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed)


def shape(engine):
    """Everything that the database knows about our tables."""
    seen = inspect(engine)
    shown = {}
    for name in sorted(seen.get_table_names()):
        shown[name] = {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(name)],
            "key": seen.get_pk_constraint(name),
            "unique": seen.get_unique_constraints(name),
            "foreign": seen.get_foreign_keys(name),
            "indexes": sorted(
                (i["name"], *i["column_names"], *(f"{k}={v}" for k, v in sorted(i.get("dialect_options", {}).items())))
                for i in seen.get_indexes(name)
            ),
        }
    return shown


def test_migrated_tables_are_the_same_as_created_ones(url, request, tmp_path, opened):
    opened(url)
    other = f"sqlite:///{tmp_path}/other.sqlite"
    if url.startswith("postgresql"):
        other = request.getfixturevalue("postgres").new_database()
    created, migrated = connected(url), connected(other)
    with migrated.begin() as connection:
        migrations.upgrade(connection)
    assert shape(created) == shape(migrated)
    assert "nodetool_jobs" in shape(created)
    with created.connect() as one, migrated.connect() as two:
        stamped = text(f"SELECT version_num FROM {tables.VERSION_TABLE}")
        assert one.execute(stamped).scalars().all() == two.execute(stamped).scalars().all()
    created.dispose()
    migrated.dispose()


def test_a_new_database_is_made_without_alembic_and_nothing_is_imported_before_it_is_opened(tmp_path):
    code = f"""
        import sys
        from nodetool_jupyter.stores.sql import SqlStore
        store = SqlStore("sqlite:///{tmp_path}/a/jobs.sqlite")
        assert "sqlalchemy" not in sys.modules
        for _ in range(2):
            store.open()
            store.close()
        assert "sqlalchemy" in sys.modules
        assert "alembic" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_older_tables_are_migrated_and_keep_their_jobs(url, opened, tmp_path, monkeypatch):
    store = opened(url)
    job = stored(store, through=(JobStatus.STARTING,))
    store.close()
    folder = tmp_path / "100% migrations"
    shutil.copytree(migrations.FOLDER, folder)
    (folder / "versions" / "v0003.py").write_text(
        textwrap.dedent("""
        import sqlalchemy as sa
        from alembic import op
        revision, down_revision = "0003", "0002"
        def upgrade():
            op.add_column("nodetool_owners", sa.Column("note", sa.Text, nullable=True))
        """)
    )
    monkeypatch.setattr(migrations, "FOLDER", folder)
    monkeypatch.setattr(tables, "SCHEMA", 3)
    newer = opened(url)
    assert newer.get(job.id) == job
    assert len(newer.read(job.id)) == 2
    engine = connected(url)
    assert shape(engine)["nodetool_owners"]["columns"][-1][0] == "note"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT number FROM nodetool_schema")).scalars().all() == [3]
    engine.dispose()


def test_tables_of_a_newer_version_are_refused_with_the_version_to_install(url, opened):
    opened(url).close()
    engine = connected(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE nodetool_schema SET number = 99, written_by = '7.8.9'"))
    engine.dispose()
    with pytest.raises(StoreError, match=r"Install nodetool_jupyter 7\.8\.9 or newer") as refused:
        opened(url)
    assert __version__ in str(refused.value)
    assert "only-for-tests" not in str(refused.value)


def test_a_database_that_others_use_keeps_their_tables(url, opened, sqlite_path):
    sqlite_path.parent.mkdir()
    engine = connected(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE jobs (id INTEGER)"))
        connection.execute(text("INSERT INTO jobs VALUES (7)"))
    job = stored(opened(url))
    assert job.id
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM jobs")).scalars().all() == [7]
    engine.dispose()


def test_many_may_open_a_new_database_at_once(url):
    stores = [SqlStore(url) for _ in range(6)]
    faults: list[BaseException] = []
    start = threading.Barrier(len(stores))

    def open_one(store: SqlStore) -> None:
        start.wait()
        try:
            store.open()
            stored(store)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=open_one, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(stores[0].find()) == len(stores)
    assert all(not store.warnings for store in stores)
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, "by_time"),
        ({"user": "ann"}, "by_user"),
        ({"user": "ann", "owner": "o1"}, "by_owner"),
        ({"user": "ann", "work_hash": "h"}, "by_work"),
        ({"user": "ann", "statuses": {JobStatus.RUNNING, JobStatus.QUEUED}}, "open"),
        ({"owner": "o1", "statuses": {JobStatus.RUNNING}}, "open"),
    ],
    ids=str,
)
def test_the_newest_page_is_read_from_an_index_and_never_sorted(sqlite, sqlite_path, asked, index):
    sqlite.commit([new() for _ in range(50)])
    sent = []
    event.listen(sqlite._engine, "before_cursor_execute", lambda *call: sent.append(call[2:4]))
    sqlite.find(**asked)
    [(statement, parameters)] = sent
    with closing(sqlite3.connect(sqlite_path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    steps = " ".join(row[3] for row in plan)
    assert f"USING INDEX nodetool_jobs_{index}" in steps
    assert "TEMP B-TREE" not in steps


@pytest.mark.parametrize("column", ["state", "request", "status"])
def test_a_row_that_can_not_be_read_is_named(url, opened, column):
    store = opened(url)
    job, other = stored(store), stored(store)
    engine = connected(url)
    with engine.begin() as connection:
        spoilt = "'no such'" if column == "status" else ":blob"
        connection.execute(
            text(f"UPDATE nodetool_jobs SET {column} = {spoilt} WHERE id = :id"),
            {"id": job.id} if column == "status" else {"id": job.id, "blob": b"\x00\xff{"},
        )
    engine.dispose()
    with pytest.raises(StoreError, match=job.id):
        store.get(job.id)
    assert store.get(other.id) == other


def test_an_event_that_can_not_be_read_is_an_error_of_the_store(url, opened):
    store = opened(url)
    job = stored(store)
    engine = connected(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE nodetool_events SET events = :blob"), {"blob": b"[{]"})
    engine.dispose()
    with pytest.raises(StoreError, match="log is damaged"):
        store.read(job.id)


def test_the_settings_choose_the_store(sqlite_path, postgres):
    url = postgres.new_database()
    kinds = {}
    for name, environ in {
        "memory": {"ENV": "test"},
        "sqlite": {"NODETOOL_DATABASE_URL": f"sqlite:///{sqlite_path}", "ENV": "test"},
        "postgres": {"NODETOOL_DATABASE_URL": url},
    }.items():
        store = open_store(Settings(environ))
        stored(store)
        kinds[name] = type(store).__name__
        store.close()
    assert kinds == {"memory": "MemoryStore", "sqlite": "SqlStore", "postgres": "SqlStore"}
    assert sqlite_path.exists()


def test_without_a_setting_jobs_are_kept_in_jupyters_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    open_store(Settings({})).close()
    assert (tmp_path / "data" / "nodetool" / "jobs.sqlite").exists()

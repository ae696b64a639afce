"""One fixture per kind of store, and one over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodetool_jupyter.stores.base import JobStore
from nodetool_jupyter.stores.memory import MemoryStore
from nodetool_jupyter.stores.sql import SqlStore
from tests.components import require
from tests.small_disk import small_disk  # noqa: F401  # pytest finds fixtures by name
from tests.stores import postgres_server
from tests.stores.store_building import new

OpenStore = Callable[[], JobStore]


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    """A real server, started for this run."""
    binaries = require("PostgreSQL's server", postgres_server.find_binaries(), "apt-get install postgresql")
    with postgres_server.running(binaries) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/jobs.sqlite"
    server: postgres_server.Server = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def opened() -> Iterator[Callable[[str], SqlStore]]:
    """Opens stores that are closed after the test."""
    stores: list[SqlStore] = []

    def open_url(url: str) -> SqlStore:
        store = SqlStore(url)
        stores.append(store)
        store.open()
        return store

    yield open_url
    for store in stores:
        store.close()


@pytest.fixture
def sql_store(url: str, opened: Callable[[str], SqlStore]) -> SqlStore:
    """An open SQL store."""
    return opened(url)


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """Where a SQLite database may be made."""
    return tmp_path / "store" / "jobs.sqlite"


@pytest.fixture
def sqlite(sqlite_path: Path, opened: Callable[[str], SqlStore]) -> SqlStore:
    """An open SQLite store."""
    return opened(f"sqlite:///{sqlite_path}")


@pytest.fixture
def closed(sqlite_path: Path, opened: Callable[[str], SqlStore]) -> Path:
    """The path of a database that holds jobs and is not in use."""
    store = opened(f"sqlite:///{sqlite_path}")
    store.commit([new(f"old{n:03}", name="x" * 2000) for n in range(100)])
    store.close()
    return sqlite_path


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    """Every kind of store, open and empty."""
    made: JobStore
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "sqlite":
        made = SqlStore(f"sqlite:///{tmp_path}/store/jobs.sqlite")
    else:
        server: postgres_server.Server = request.getfixturevalue("postgres")
        made = SqlStore(server.new_database())
    made.open()
    yield made
    made.close()

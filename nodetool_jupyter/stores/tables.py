"""The tables of the store, for SQLite and PostgreSQL alike. A change needs a migration and a new `SCHEMA`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)

from .. import __version__
from ..errors import StoreError

SCHEMA = 2
OPEN_ONLY = "status NOT IN ('completed', 'failed', 'cancelled')"
HASHED_ONLY = "work_hash <> ''"
CLOSED_ONLY = "status IN ('completed', 'failed', 'cancelled')"

# ids are compared byte by byte, whatever language the database sorts in
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

jobs = Table(
    "nodetool_jobs",
    metadata,
    Column("id", _TEXT, primary_key=True),
    Column("user", _TEXT, nullable=False),
    Column("owner", _TEXT, nullable=False),
    Column("status", _TEXT, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("work_hash", _TEXT, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("labels", _TEXT, nullable=False, server_default=text("''")),
)
Index("nodetool_jobs_by_time", jobs.c.created_at, jobs.c.id)
Index("nodetool_jobs_by_user", jobs.c.user, jobs.c.created_at, jobs.c.id)
Index("nodetool_jobs_by_owner", jobs.c.owner, jobs.c.created_at, jobs.c.id)
Index(
    "nodetool_jobs_by_work",
    jobs.c.work_hash,
    jobs.c.created_at,
    jobs.c.id,
    sqlite_where=text(HASHED_ONLY),
)
Index("nodetool_jobs_open", jobs.c.created_at, jobs.c.id, sqlite_where=text(OPEN_ONLY))


def narrow_indexes_for(dialect: str) -> None:
    """Let the partial indexes be partial in another dialect; to name it above would import it for everybody."""
    for index in jobs.indexes:
        index.dialect_options[dialect]["where"] = index.dialect_options["sqlite"]["where"]


batches = Table(
    "nodetool_events",
    metadata,
    Column("job_id", _TEXT, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("events", LargeBinary, nullable=False),
    PrimaryKeyConstraint("job_id", "last_seq"),
)

owners = Table(
    "nodetool_owners",
    metadata,
    Column("id", _TEXT, primary_key=True),
    Column("user", _TEXT, nullable=False),
    Column("host", _TEXT, nullable=False),
    Column("boot_id", _TEXT, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("start_ticks", BigInteger, nullable=False),
    Column("kernel_id", _TEXT, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

schema = Table(
    "nodetool_schema",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("written_by", Text, nullable=False),
)

# alembic's own table, under a name that another program in the same database doesn't use
VERSION_TABLE = "nodetool_alembic_version"
alembic_version = Table(
    VERSION_TABLE,
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)


def is_up_to_date(connection: Connection, where: str) -> bool:
    """Whether the tables are there as this version knows them; needs no lock.

    Raises `StoreError` when a newer version of this package has written them.
    """
    if not inspect(connection).has_table(schema.name):
        return False
    number, written_by = connection.execute(select(schema.c.number, schema.c.written_by)).one()
    if number > SCHEMA:
        raise StoreError(
            f"The job store at {where} was written by nodetool_jupyter {written_by}; this is {__version__}, which is "
            f"too old to read it. Install nodetool_jupyter {written_by} or newer, or set NODETOOL_DATABASE_URL to "
            "another place."
        )
    return bool(number == SCHEMA)


def bring_up_to_date(connection: Connection) -> None:
    """Create or migrate the tables; inside a transaction that keeps other writers out."""
    if not inspect(connection).has_table(schema.name):
        metadata.create_all(connection)
        connection.execute(insert(alembic_version).values(version_num=revision(SCHEMA)))
        connection.execute(insert(schema).values(number=SCHEMA, written_by=__version__))
    else:
        from .migrations import upgrade

        upgrade(connection)
        connection.execute(update(schema).values(number=SCHEMA, written_by=__version__))


def revision(number: int) -> str:
    """The migration that leads to a schema's number."""
    return f"{number:04}"

"""The first tables: jobs, their events, their owners."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "nodetool_jobs",
        sa.Column("id", _TEXT, primary_key=True),
        sa.Column("user", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("status", _TEXT, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("work_hash", _TEXT, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
    )
    op.create_index("nodetool_jobs_by_time", "nodetool_jobs", ["created_at", "id"])
    op.create_index("nodetool_jobs_by_user", "nodetool_jobs", ["user", "created_at", "id"])
    op.create_index("nodetool_jobs_by_owner", "nodetool_jobs", ["owner", "created_at", "id"])
    _partial_index("nodetool_jobs_by_work", ["work_hash", "created_at", "id"], "work_hash <> ''")
    _partial_index("nodetool_jobs_open", ["created_at", "id"], "status NOT IN ('completed', 'failed', 'cancelled')")
    op.create_table(
        "nodetool_events",
        sa.Column("job_id", _TEXT, nullable=False),
        sa.Column("first_seq", sa.BigInteger, nullable=False),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("events", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "last_seq"),
    )
    op.create_table(
        "nodetool_owners",
        sa.Column("id", _TEXT, primary_key=True),
        sa.Column("user", _TEXT, nullable=False),
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("boot_id", _TEXT, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("start_ticks", sa.BigInteger, nullable=False),
        sa.Column("kernel_id", _TEXT, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "nodetool_schema",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("written_by", sa.Text, nullable=False),
    )


def _partial_index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "nodetool_jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))

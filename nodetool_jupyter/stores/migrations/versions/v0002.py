"""A job's labels in a column of their own, to find it by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; jobs of before are not found by their labels."""
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("nodetool_jobs", sa.Column("labels", kind, nullable=False, server_default=sa.text("''")))

"""Alembic's way in: runs the migrations on the connection that `upgrade` was given."""

from __future__ import annotations

from alembic import context

from nodetool_jupyter.stores.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()

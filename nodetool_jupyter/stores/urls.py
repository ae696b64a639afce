"""Which database a URL names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import StoreError

if TYPE_CHECKING:
    from .database import Database


def named_by(url: str) -> Database:
    """The database that a URL names. Raises `StoreError` that doesn't show its password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    shown = re.sub(r"//.*@", "//***@", url.partition("?")[0])
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreError(
            f"NODETOOL_DATABASE_URL {shown!r} is not a URL of a database. Write sqlite:////path/to/jobs.sqlite or "
            "postgresql://user@host/database."
        ) from None
    kind = parsed.drivername.partition("+")[0]
    if kind == "sqlite":
        from .sqlite import SqliteDatabase

        return SqliteDatabase(parsed)
    if kind in {"postgresql", "postgres"}:
        from .postgres import PostgresDatabase

        return PostgresDatabase(parsed)
    raise StoreError(
        f"NODETOOL_DATABASE_URL {shown!r} names a database of kind {kind!r}, which can't hold jobs. "
        "Use sqlite:////path/to/jobs.sqlite or postgresql://user@host/database."
    )

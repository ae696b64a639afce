"""Where jobs and their events are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Settings
    from .base import JobStore


def open_store(settings: Settings) -> JobStore:
    """The store that the settings name, opened. Raises `StoreError` with a remedy."""
    store: JobStore
    if settings.database_url == "":
        from .memory import MemoryStore

        store = MemoryStore()
    else:
        from .sql import SqlStore

        store = SqlStore(settings.database_url)
    store.open()
    return store

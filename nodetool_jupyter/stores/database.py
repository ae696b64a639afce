"""What SQLite and PostgreSQL do each in their own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from ..errors import StoreError


class Database(Protocol):
    """One database: how it is reached, how a write begins, and what its errors mean.

    begin: the statement that begins a write. warnings: what `connect` had to do.
    """

    begin: str
    warnings: list[str]

    @property
    def error(self) -> type[Exception]:
        """The driver's base class of errors."""
        ...

    @property
    def insert(self) -> Callable[..., Any]:
        """SQLAlchemy's `insert` of this dialect, which knows `ON CONFLICT`."""
        ...

    @property
    def where(self) -> str:
        """The place, for sentences; without the password."""
        ...

    def connect(self) -> Engine:
        """Make the place usable and an engine for it, in autocommit. Raises `StoreError`."""
        ...

    def keep_others_out(self, connection: Connection) -> None:
        """Let nobody else change the tables until the transaction ends."""
        ...

    def check(self) -> None:
        """Before each write: raises `StoreError` when it would be lost."""
        ...

    def explain(self, error: BaseException) -> StoreError:
        """The driver's error as one sentence with a remedy."""
        ...

    def lost(self, error: BaseException) -> bool:
        """Whether the connection is gone, so that nobody knows if the last commit was taken."""
        ...

    def keep_room(self) -> None:
        """Set a little room aside for the time when there is none."""
        ...

    def make_room(self, connection: Any, *, at_all_costs: bool) -> None:
        """Find room for a write on a full disk; `at_all_costs` also what `keep_room` set aside."""
        ...

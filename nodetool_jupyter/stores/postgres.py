"""PostgreSQL through psycopg 3, for a store that several machines share."""

from __future__ import annotations

from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.dialects.postgresql import insert

from ..errors import StorageFull, StoreBusy, StoreError
from .tables import narrow_indexes_for

_CONNECT_SECONDS = 5
_MOST_CHARACTERS = 500
_OPTIONS = "-c lock_timeout=5000 -c idle_in_transaction_session_timeout=60000"
_OUT_OF_REACH = ("08", "57P")
_TRY_AGAIN = ("40001", "40P01", "53", "55P03", "57014")

narrow_indexes_for("postgresql")


class PostgresDatabase:
    """A `Database` on a server."""

    begin = "BEGIN"
    insert = staticmethod(insert)

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg")
        self.warnings: list[str] = []
        try:
            import psycopg
        except ImportError as error:
            raise StoreError(
                f"NODETOOL_DATABASE_URL names a PostgreSQL database, but its driver can't be loaded ({error}). "
                "Install it: pip install 'nodetool_jupyter[postgres]'."
            ) from error
        self.error: type[Exception] = psycopg.Error

    @property
    def where(self) -> str:
        """The URL without its password."""
        kept = {name: value for name, value in self._url.query.items() if name in {"host", "port"}}
        return self._url.set(drivername="postgresql", query=kept).render_as_string(hide_password=True)

    def connect(self) -> Engine:
        """An engine; whether the server answers is seen at the first query."""
        arguments: dict[str, object] = {
            "connect_timeout": _CONNECT_SECONDS,
            "application_name": "nodetool_jupyter",
            "client_encoding": "utf8",  # else text of a database in SQL_ASCII comes as bytes
        }
        arguments = {name: value for name, value in arguments.items() if name not in self._url.query}
        if "options" not in self._url.query:
            arguments["options"] = _OPTIONS
        return create_engine(
            self._url,
            isolation_level="AUTOCOMMIT",
            pool_pre_ping=True,
            pool_reset_on_return=None,
            connect_args=arguments,
        )

    def keep_others_out(self, connection: Connection) -> None:
        """Hold a lock of our own until the transaction ends."""
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7238153)")

    def check(self) -> None:
        """The server itself says when a write is lost."""

    def explain(self, error: BaseException) -> StoreError:
        """One sentence for the server's SQLSTATE, or for its silence."""
        state = getattr(error, "sqlstate", None) or ""
        why = self._first_line(error)
        if state in {"53100", "53200"}:
            return StorageFull(f"The job database at {self.where} has no room left ({why}). Make room on the server.")
        if state.startswith(_TRY_AGAIN):
            return StoreBusy(f"The job database at {self.where} can't take this now ({why}). It may be tried again.")
        if not isinstance(error, self.error):
            return StoreError(
                f"The job database at {self.where} can't be used ({type(error).__name__}: {why.rstrip('.')}). Name a "
                "PostgreSQL database in UTF8 in NODETOOL_DATABASE_URL."
            )
        if self.lost(error):
            return StoreBusy(
                f"The job database at {self.where} can't be reached: {why.rstrip('.')}. Start the server, or correct "
                "NODETOOL_DATABASE_URL."
            )
        return StoreError(
            f"The job database at {self.where} refused: {why.rstrip('.')}. Check the user's rights, or correct "
            "NODETOOL_DATABASE_URL."
        )

    def lost(self, error: BaseException) -> bool:
        """Whether the connection ended; an error that came without a SQLSTATE is the connection's own."""
        state = getattr(error, "sqlstate", None) or ""
        return not state or state.startswith(_OUT_OF_REACH)

    def keep_room(self) -> None:
        """Room on the server is the server's affair."""

    def make_room(self, connection: object, *, at_all_costs: bool) -> None:
        """There is none to give back."""

    def _first_line(self, error: BaseException) -> str:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        for secret in (self._url.password, self._url.query.get("password")):
            text = text.replace(str(secret), "***") if secret else text
        return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"

"""Jobs in SQLite or PostgreSQL. SQLAlchemy is imported when the store is opened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import StorageFull, StoreDamaged, StoreError
from ..events import AnyEvent
from ..jobs import Job, JobStatus
from .base import Change, Owner
from .batches import cut

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from .database import Database
    from .rows import Statements
    from .writing import Row

T = TypeVar("T")

_DELETED_AT_ONCE = 20
_MOST_ROWS = 1_000
_ODD = (TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError)
"""What SQLAlchemy and a driver raise on the way to a server whose answers they can't make sense of."""
_LEFT_OUT = (
    "is left out of lists. Its row is damaged; other jobs are not affected.",
    "are left out of lists. Their rows are damaged; other jobs are not affected.",
)


class SqlStore:
    """A `JobStore` behind a SQLAlchemy URL (`sqlite:///…`, `postgresql://…`).

    One connection is kept for writing, under a lock; readers have theirs from the pool.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._engine: Engine | None = None
        self._statements: Statements | None = None
        self._writer: Any = None
        self._in_doubt = False
        self._unread: set[str] = set()

    @property
    def warnings(self) -> Sequence[str]:
        """What `open` had to do, and what `find` had to leave out."""
        return tuple(self._database.warnings) if self._database is not None else ()

    def open(self) -> None:
        """Check or create the database and its tables; see `JobStore.open`."""
        with self._lock:
            if self._engine is not None:
                return
            from .rows import Statements
            from .urls import named_by

            self._database = database = named_by(self._url)
            try:
                engine = self._start(database)
            except StoreDamaged:
                engine = self._start(database)  # now that damage is suspected, it is looked for and set aside
            self._statements = Statements(engine.dialect, database.insert)
            self._engine = engine
            database.keep_room()

    def close(self) -> None:
        """Give back every connection."""
        with self._lock:
            engine, self._engine = self._engine, None
            self._drop_writer()
            if engine is not None:
                engine.dispose()

    def commit(self, changes: Sequence[Change]) -> None:
        """Write all changes in one transaction; see `JobStore.commit`."""
        from .writing import row_of

        rows = [row_of(change) for change in changes]
        ends = any(change.job.status.final for change in changes)
        self._with_room(lambda: self._commit(rows), at_all_costs=ends)

    def get(self, job_id: str) -> Job | None:
        """The job with exactly this id."""
        from sqlalchemy import select

        from .rows import job_in, plain
        from .tables import jobs

        with self._reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == plain(job_id))).one_or_none()
        return None if row is None else job_in(row)

    def find(
        self,
        *,
        user: str | None = None,
        owner: str | None = None,
        statuses: Collection[JobStatus] | None = None,
        prefix: str = "",
        work_hash: str = "",
        labels: Mapping[str, str] | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[Job]:
        """Jobs, newest first; see `JobStore.find`."""
        from .rows import jobs_in, selection

        query = selection(
            user=user,
            owner=owner,
            statuses=statuses,
            prefix=prefix,
            work_hash=work_hash,
            labels=labels,
            limit=limit,
            before=before,
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        found, unread = jobs_in(rows)
        self._say_unread(unread)
        return found

    def read(self, job_id: str, *, after: int = 0, limit: int = 10_000) -> list[AnyEvent]:
        """Events above `after`, at most `limit`."""
        from sqlalchemy import select

        from .rows import plain
        from .tables import batches

        columns = batches.c
        query = (
            select(columns.first_seq, columns.last_seq, columns.events)
            .where(columns.job_id == plain(job_id), columns.last_seq > after, columns.first_seq <= after + limit)
            .order_by(columns.last_seq)
            .limit(_MOST_ROWS)  # PostgreSQL's driver has them all before the first is looked at
        )
        with self._reading() as connection, closing(connection.execute(query)) as rows:
            return cut(((first, last, bytes(blob)) for first, last, blob in rows), after, limit)

    def register(self, owner: Owner) -> None:
        """Make a manager known."""
        from .rows import owner_row

        with self._writing() as (cursor, statements):
            cursor.execute(statements.register, owner_row(owner))

    def unregister(self, owner_id: str) -> None:
        """Forget a manager."""
        from .rows import plain

        with self._writing() as (cursor, statements):
            cursor.execute(statements.unregister, {"which": plain(owner_id)})

    def heartbeat(self, owner_id: str) -> bool:
        """Say that a manager lives; also sees to it that there is room for the worst case again."""
        from .rows import plain

        with self._writing() as (cursor, statements):
            cursor.execute(statements.heartbeat, {"which": plain(owner_id)})
            known = bool(cursor.rowcount)
        self._opened()[0].keep_room()
        return known

    def owners(self) -> list[Owner]:
        """Every manager that is registered."""
        from sqlalchemy import select

        from .tables import owners

        with self._reading() as connection:
            rows = connection.execute(select(owners)).all()
        return [Owner(**row._mapping) for row in rows]

    def delete(self, job_ids: Collection[str]) -> int:
        """Remove final jobs with their events, a few in each transaction, so that it can be done on a full disk."""
        ids = sorted(set(job_ids))
        few = [ids[start : start + _DELETED_AT_ONCE] for start in range(0, len(ids), _DELETED_AT_ONCE)]
        return sum(self._with_room(partial(self._delete, some), at_all_costs=True) for some in few)

    def _say_unread(self, job_ids: set[str]) -> None:
        """Warn of rows that can't be read, of each once."""
        with self._lock:
            news = sorted(job_ids - self._unread)
            self._unread.update(news)
            if news and self._database is not None:
                what = f"Job {news[0]}" if len(news) == 1 else f"{len(news)} jobs, among them {news[0]},"
                self._database.warnings.append(
                    f"{what} can't be read from the job store at {self._database.where} and {_LEFT_OUT[len(news) > 1]}"
                )

    def _commit(self, rows: Sequence[Row]) -> None:
        from .writing import write

        with self._writing() as (cursor, statements):
            for row in rows:
                write(cursor, statements, row, in_doubt=self._in_doubt)
        self._in_doubt = False

    def _delete(self, job_ids: Sequence[str]) -> int:
        from .rows import plain

        gone = 0
        with self._writing() as (cursor, statements):
            for row in [{"which": plain(job_id)} for job_id in job_ids]:
                cursor.execute(statements.delete_batches, row)
                cursor.execute(statements.delete_job, row)
                gone += cursor.rowcount
        return gone

    def _with_room(self, write: Callable[[], T], *, at_all_costs: bool) -> T:
        """Write in one transaction; on a full disk again, once there is room for it."""
        for give_up_all in (False, True) if at_all_costs else (False,):
            try:
                return write()
            except StorageFull:
                self._make_room(give_up_all)
        return write()

    def _start(self, database: Database) -> Engine:
        """An engine on tables that are up to date."""
        from sqlalchemy.exc import SQLAlchemyError

        from .tables import bring_up_to_date, is_up_to_date

        engine = database.connect()
        try:
            with engine.connect() as connection:
                if not is_up_to_date(connection, database.where):
                    connection.exec_driver_sql(database.begin)
                    database.keep_others_out(connection)
                    if not is_up_to_date(connection, database.where):
                        bring_up_to_date(connection)
                    connection.commit()
        except (SQLAlchemyError, *_ODD) as error:
            engine.dispose()
            raise database.explain(getattr(error, "orig", None) or error) from error
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _opened(self) -> tuple[Database, Engine]:
        if self._engine is None or self._database is None:
            raise StoreError("The job store is not open. Call open() first.")
        return self._database, self._engine

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        from sqlalchemy.exc import SQLAlchemyError

        database, engine = self._opened()
        try:
            with engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise database.explain(getattr(error, "orig", None) or error) from error

    @contextmanager
    def _writing(self) -> Iterator[tuple[Any, Statements]]:
        """A cursor in a transaction of its own on the writing connection."""
        with self._lock:
            database, engine = self._opened()
            database.check()
            assert self._statements is not None
            committing = False
            try:
                connection = self._connected(engine)
                cursor = connection.cursor()
                cursor.execute(database.begin)
                yield cursor, self._statements
                committing = True
                connection.commit()
            except database.error as error:
                lost = database.lost(error)
                self._in_doubt = self._in_doubt or (committing and lost)
                self._roll_back(database, drop=lost)
                raise database.explain(error) from error
            except BaseException:
                self._roll_back(database, drop=False)
                raise

    def _make_room(self, at_all_costs: bool) -> None:
        with self._lock:
            database, engine = self._opened()
            database.make_room(self._connected(engine), at_all_costs=at_all_costs)

    def _connected(self, engine: Engine) -> Any:
        if self._writer is None:
            from sqlalchemy.exc import DBAPIError

            try:
                self._writer = engine.raw_connection()
            except DBAPIError as error:
                raise error.orig or error from error
            except _ODD as error:
                raise self._opened()[0].explain(error) from error
        return self._writer.driver_connection

    def _roll_back(self, database: Database, *, drop: bool) -> None:
        with suppress(database.error):
            if self._writer is not None:
                self._writer.driver_connection.rollback()
        if drop:
            self._drop_writer()

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.invalidate()

"""SQLite: one private file in WAL mode, with a little room set aside for a full disk."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.dialects.sqlite import insert

from ..errors import StorageFull, StoreBusy, StoreDamaged, StoreError
from . import sqlite_file as file

BALLAST_BYTES = 512 << 10
_SETTINGS = (
    f"PRAGMA busy_timeout={int(file.BUSY_SECONDS * 1000)}",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA journal_size_limit=16777216",
    "PRAGMA temp_store=MEMORY",
)


class SqliteDatabase:
    """A `Database` in one file. Its folder is made 0700, the file and its journal are 0600."""

    error = sqlite3.Error
    begin = "BEGIN IMMEDIATE"
    insert = staticmethod(insert)

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:" or url.database.startswith("file:") or url.query:
            raise StoreError(
                f"NODETOOL_DATABASE_URL {str(url)!r} names no file. Write sqlite:////path/to/jobs.sqlite, "
                "with four slashes and without options."
            )
        self.path = Path(url.database).expanduser().absolute()
        self.warnings: list[str] = []
        self._ballast = file.beside(self.path, ".ballast")
        self._identity = (0, 0)

    @property
    def where(self) -> str:
        """The file's path."""
        return str(self.path)

    def connect(self) -> Engine:
        """Check the file, set a damaged one aside, create a missing one."""
        file.make_folder(self.path)
        file.refuse_network(self.path)
        with file.locked(self.path):
            if self.path.exists() and file.damage(self.path):
                self.warnings.append(file.set_aside(self.path))
            file.clear_suspicion(self.path)
            if not self.path.exists():
                self._create()
            elif sentence := file.make_private(self.path):
                self.warnings.append(sentence)
            found = self.path.stat()
            self._identity = (found.st_dev, found.st_ino)
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            isolation_level="AUTOCOMMIT",
            paramstyle="named",
            pool_reset_on_return=None,
            connect_args={"check_same_thread": False, "timeout": file.BUSY_SECONDS},
        )
        event.listen(engine, "connect", _prepare)
        return engine

    def keep_others_out(self, connection: Connection) -> None:
        """`BEGIN IMMEDIATE` has done so."""

    def check(self) -> None:
        """A file that was removed takes writes without a word, so look for it each time."""
        try:
            found = os.stat(self.path)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            raise StoreError(
                f"The job database at {self.path} was removed or replaced while it was in use. What jobs do is not "
                "recorded any more; restart the kernel to go on with a new one."
            )

    def explain(self, error: BaseException) -> StoreError:
        """One sentence for SQLite's result code."""
        code = file.kind(error)
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return StoreBusy(
                f"The job database at {self.path} has been locked by another process for over "
                f"{file.BUSY_SECONDS:g} s. If that goes on, `fuser {self.path}` names the process to stop."
            )
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._full()):
            return StorageFull(
                f"There is no room left on the disk of the job database ({self.path}). "
                "Remove files there, or old jobs with `%nodetool prune`."
            )
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            file.suspect(self.path)
            return StoreDamaged(
                f"The job database at {self.path} is damaged ({error}). Restart the kernel: the damaged file is then "
                "set aside and a new one is started."
            )
        return file.unusable(self.path, error)

    def lost(self, error: BaseException) -> bool:
        """A file is never out of reach in the middle of a commit."""
        return False

    def keep_room(self) -> None:
        """Write the ballast file, unless there is hardly room for it."""
        with suppress(OSError):
            room = os.statvfs(self.path.parent)
            if self._ballast.exists() or room.f_bavail * room.f_frsize < 4 * BALLAST_BYTES:
                return
            descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, bytes(BALLAST_BYTES))
            finally:
                os.close(descriptor)

    def make_room(self, connection: Any, *, at_all_costs: bool) -> None:
        """Have the journal written into the database, so that it is used again; give up the ballast file."""
        if at_all_costs:
            with suppress(OSError):
                self._ballast.unlink()
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _full(self) -> bool:
        try:
            room = os.statvfs(self.path.parent)
        except OSError:
            return False
        return room.f_bavail * room.f_frsize < 1 << 16

    def _create(self) -> None:
        """Make the file under another name first: an empty one in its place would look damaged."""
        new = file.beside(self.path, ".new")
        try:
            for ending in ("", "-wal", "-shm", "-journal"):
                file.beside(new, ending).unlink(missing_ok=True)
            # SQLite would make it 0644; its journals take the mode of the file
            os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(new, isolation_level=None)) as connection:
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise OSError(f"its file system can't hold a write-ahead log (SQLite says {mode!r})")
            new.rename(self.path)
        except sqlite3.Error as error:
            raise self.explain(error) from error
        except OSError as error:
            raise file.unusable(self.path, error) from error


def _prepare(connection: Any, record: object) -> None:
    for setting in _SETTINGS:
        connection.execute(setting)

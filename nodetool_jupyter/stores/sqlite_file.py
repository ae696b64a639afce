"""The file of a SQLite store: is it whole, is it where it may be, and what is done when it isn't."""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..errors import StoreBusy, StoreError
from ..mount_table import file_system

BUSY_SECONDS = 5.0
_CHECKED_BYTES = 16 << 20
_LOCK_SECONDS = 10.0
_NETWORK = re.compile(
    r"nfs4?|cifs|smb3|smbfs|ncpfs|afs|9p|coda|ceph|lustre|gpfs|beegfs|glusterfs|panfs|orangefs|pvfs2|ocfs2|gfs2|davfs|"
    r"fuse\.(?:sshfs|.*ceph.*|davfs2?|gcsfuse|glusterfs|juicefs|.*rclone|s3fs|smbnetfs)"
)
_SUSPECT = ".suspect"
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OUT_OF_REACH = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def kind(error: BaseException) -> int:
    """SQLite's primary result code of an error, 0 when it has none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def beside(path: Path, ending: str) -> Path:
    """A file that belongs to the database at `path`."""
    return path.with_name(path.name + ending)


def make_folder(path: Path) -> None:
    """The folder of the database, private when it is made here. Raises `StoreError`."""
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, error) from error


def refuse_network(path: Path) -> None:
    """Raises `StoreError` when the folder lies on a file system that other machines share."""
    found = file_system(path.parent.resolve())
    if _NETWORK.fullmatch(found):
        local = f"sqlite:////var/tmp/nodetool-{os.geteuid()}/{path.name}"
        raise StoreError(
            f"The job database can't be kept at {path}: that is a network file system ({found}), on which SQLite's "
            f"journal is not safe. Set NODETOOL_DATABASE_URL to a local path, such as {local}, or to a "
            "PostgreSQL database."
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time checks, sets aside or creates the database at `path`."""
    try:
        descriptor = os.open(beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from error
    try:
        _lock(path, descriptor)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process forked meanwhile holds the same lock
        os.close(descriptor)


def _lock(path: Path, descriptor: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreBusy(f"The job database at {path} is being opened by another process. Try again.") from None
            threading.Event().wait(0.02)  # flock(2) has no time-out
        except OSError as error:
            raise unusable(path, error) from error
        else:
            return


def damage(path: Path) -> str:
    """What is wrong with the database, "" when nothing is. A locked one is not damaged: `StoreBusy`.

    A large one is read whole only when it was seen to be damaged in use.
    """
    if not path.is_file():
        raise unusable(path, OSError("it is not a file"))
    size = path.stat().st_size
    if size == 0:
        return "it is empty"
    whole = size <= _CHECKED_BYTES or beside(path, _SUSPECT).exists()
    complete = not beside(path, "-wal").exists()  # else the last pages may stand in the journal
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            if complete and pages * page_size > size:
                return "it is cut short"
            (answer,) = connection.execute(
                "PRAGMA quick_check(1)" if whole else "SELECT 'ok' FROM sqlite_schema"
            ).fetchone()
            return "" if answer == "ok" else str(answer)
    except sqlite3.Error as error:
        if kind(error) in _LOCKED:
            raise StoreBusy(f"The job database at {path} is locked by another process. Try again later.") from error
        if kind(error) in _DAMAGE:
            return str(error)
        raise unusable(path, error) from error


def suspect(path: Path) -> None:
    """Have the next `damage` read the whole file."""
    try:
        os.close(os.open(beside(path, _SUSPECT), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError:
        return


def set_aside(path: Path) -> str:
    """Rename a damaged database with its journal; the sentence about it."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = beside(path, f".corrupt-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = beside(path, f".corrupt-{stamp}-{number}")
    # the journal first: one that is left beside a new database would be played into it
    for ending in ("-wal", "-shm", "-journal", ""):
        if beside(path, ending).exists():
            beside(path, ending).rename(beside(aside, ending))
    beside(path, _SUSPECT).unlink(missing_ok=True)
    return (
        f"The job database was damaged and has been set aside as {aside}. A new one was started; "
        "running jobs are not affected, old history is in the set-aside file. [NT-DB1]"
    )


def clear_suspicion(path: Path) -> None:
    """The file was read whole and found good."""
    beside(path, _SUSPECT).unlink(missing_ok=True)


def make_private(path: Path) -> str:
    """Leave the file to its owner alone; a sentence when others could read it before."""
    found = path.stat()
    if found.st_mode & 0o077 == 0 or found.st_uid != os.geteuid():
        return ""
    for ending in ("", "-wal", "-shm"):
        if beside(path, ending).exists():
            beside(path, ending).chmod(0o600)
    return f"The job database at {path} could be read by other users (mode {found.st_mode & 0o777:o}); now it can't."


def unusable(path: Path, error: BaseException) -> StoreError:
    """Why the file can't be used, as far as the system or SQLite says."""
    in_its_way = isinstance(error, OSError) or kind(error) in _OUT_OF_REACH
    why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return StoreError(
        f"The job database at {path} can't be used: {why.rstrip('.')}. "
        + ("Make its folder writable, or set" if in_its_way else "Set")
        + " NODETOOL_DATABASE_URL to another place, such as sqlite:////path/to/jobs.sqlite."
    )

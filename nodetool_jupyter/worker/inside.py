"""What a cell may call to talk about its own job; harmless outside of one."""

from __future__ import annotations

import errno
import os
import stat

from .current import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, TypeVar

    from .current import Inside

    T = TypeVar("T")
    P = TypeVar("P", str, os.PathLike[str])

_PART_BYTES = 1 << 20


def progress(done: float, total: float | None = None, note: str = "") -> None:
    """Show how far the job is: `progress(3, 10, "files")`. At most 20 times a second; the last one counts."""
    inside = current()
    if inside is not None:
        from .progress import report

        report(inside, "progress", done, total, chunk=str(note))


def output(name: str, value: T) -> T:
    """Hand a value back before the job has ended; it becomes `job.outputs[name]`. Returns the value.

    Raises `TypeError` with a sentence that names the variable, its type and its size when it can't travel.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"output() wants a name and a value, as output('rows', rows); the name was {name!r}.")
    inside = current()
    if inside is not None:
        inside.outlet.emit(*inside.pack(name, value))
        inside.handed_over.add(name)
    return value


def fed(name: str, default: T | None = None) -> Any:
    """The newest value that was sent to the job under this name with `job.send`, or the default.

    For a long loop that is to be steered: `rate = fed("rate", rate)`. It never waits.
    """
    inside = current()
    found = inside.fed.get(name) if inside is not None else None
    return default if found is None else found()


def cancelled() -> bool:
    """Whether the job was asked to stop: long loops look here and return."""
    inside = current()
    return inside is not None and inside.cancelled


class FileTooLarge(ValueError):
    """A file of more bytes than the job may bring back."""

    def __init__(self, name: str, size: int, most: int, saved: int) -> None:
        from .values import size_text

        used = f", of which {size_text(saved)} are used" if saved else ""
        super().__init__(
            f"File {name!r} ({size_text(size)}) can't come back from the job: the files that it saves may have "
            f"{size_text(most)} altogether{used}. Raise --max-transfer, or save less."
        )


def save_all(pattern: str) -> None:
    """Bring every file back that fits a pattern such as `out/*.csv` or `**/*.png`.

    One that can't come is told, and a pattern that no file fits.
    """
    from glob import glob

    found = sorted(glob(pattern, recursive=True))
    files = [path for path in found if os.path.isfile(path)]
    if not files:
        only = "only folders, whose files" if found else "nothing. Files below a folder"
        _warn(
            f"No file came back for --collect {pattern!r}: in {_here()} it fits {only} "
            "are named as in 'out/*.csv', at any depth as in 'out/**/*.csv'."
        )
    for path in files:
        try:
            save(path)
        except FileTooLarge as error:
            _warn(str(error))
        except OSError as error:
            _warn(f"File {os.path.basename(path)!r} can't come back from the job: {error}.")


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that is gone"


def _warn(sentence: str) -> None:
    inside = current()
    if inside is not None:
        inside.outlet.emit({"type": "notification", "content": sentence, "severity": "warning"})


def save(path: P) -> P:
    """Bring a file back from the job, under the last part of its name. Returns the path.

    Raises `FileTooLarge` when it has more bytes than --max-transfer leaves, and `OSError`.
    """
    inside = current()
    if inside is None:
        return path
    name = os.path.basename(os.fspath(path))
    if stat.S_ISFIFO(os.stat(path).st_mode):  # to open it waits for whoever writes
        raise OSError(errno.EINVAL, "A pipe can't come back from the job. Read it, and save what came", os.fspath(path))
    with open(path, "rb") as file:
        _check(inside, name, os.fstat(file.fileno()).st_size)
        came = False
        try:
            inside.saved_bytes += _send(inside, name, file)
            came = True
        finally:
            if not came:  # what is there of it is no file
                inside.outlet.emit({"type": "file", "name": name, "last": True, "given_up": True}, [b""])
    return path


def _check(inside: Inside, name: str, size: int) -> None:
    if inside.saved_bytes + size > inside.max_bytes:
        raise FileTooLarge(name, size, inside.max_bytes, inside.saved_bytes)


def _send(inside: Inside, name: str, file: BinaryIO) -> int:
    """Send a file piece by piece; how many bytes it had, which may be more than were there at first."""
    size, part = 0, file.read(_PART_BYTES)
    while True:
        size += len(part)
        _check(inside, name, size)
        following = file.read(_PART_BYTES) if part else b""
        inside.outlet.emit({"type": "file", "name": name, "last": not following}, [part])
        if not following:
            return size
        part = following

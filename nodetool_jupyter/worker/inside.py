"""What a cell may call to talk about its own job; harmless outside of one."""

from __future__ import annotations

import os

from .current import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

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


def save_all(pattern: str) -> None:
    """Bring every file back that fits a pattern such as `out/*.csv` or `**/*.png`."""
    from glob import glob

    for path in sorted(glob(pattern, recursive=True)):
        if os.path.isfile(path):
            save(path)


def save(path: P) -> P:
    """Bring a file back from the job, under the last part of its name. Returns the path."""
    inside = current()
    if inside is None:
        return path
    name = os.path.basename(os.fspath(path))
    with open(path, "rb") as file:
        part = file.read(_PART_BYTES)
        while part:
            following = file.read(_PART_BYTES)
            inside.outlet.emit({"type": "file", "name": name, "last": not following}, [part])
            part = following
        if not file.tell():
            inside.outlet.emit({"type": "file", "name": name, "last": True}, [b""])
    return path

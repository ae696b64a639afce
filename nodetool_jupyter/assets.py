"""Where the files that a job saves go: a private folder per job."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InvalidRequest

MAX_FILES = 1_000


class AssetFolder:
    """Files of one job in folder `name` below `root`, which is made (0700) when the first one comes.

    Names are the last part of what the job calls a file; one that is taken gets a number. A file is there as a
    whole or not at all.
    """

    def __init__(self, root: Path, name: str, *, max_bytes: int) -> None:
        self._below = root, name
        self._left = max_bytes
        self._open: dict[str, tuple[int, Path]] = {}
        self._names: set[str] = set()
        self._dropped: set[str] = set()
        self._errors = 0

    @property
    def root(self) -> Path:
        """The folder, which may not be there yet."""
        return self._below[0] / self._below[1]

    def write(self, name: str, data: bytes, *, last: bool) -> Path | None:
        """Add a piece to a file; its path once the last piece is in, else `None`.

        Raises `InvalidRequest` for a name without a last part, too many files or too many bytes, and `OSError`. The
        file is removed then, and what else comes of it is dropped.
        """
        if name in self._dropped or self._errors >= MAX_FILES:
            if last:
                self._dropped.discard(name)
            return None
        try:
            return self._write(name, data, last=last)
        except (InvalidRequest, OSError):
            self.give_up(name)
            self._errors += 1
            if not last:
                self._dropped.add(name)
            raise

    def give_up(self, name: str) -> None:
        """Remove what has come of a file that isn't closed, if there is one."""
        self._dropped.discard(name)
        if name in self._open:
            descriptor, path = self._open.pop(name)
            self._left += os.fstat(descriptor).st_size
            os.close(descriptor)
            self._remove(path)

    def _write(self, name: str, data: bytes, *, last: bool) -> Path | None:
        if len(data) > self._left:
            raise InvalidRequest("The job saved more than it may bring back. Raise --max-transfer, or save less.")
        if name not in self._open:
            self._open[name] = self._create(name)
        descriptor, path = self._open[name]
        while data:
            written = os.write(descriptor, data)
            self._left -= written
            data = data[written:]
        if not last:
            return None
        del self._open[name]
        try:
            os.close(descriptor)
        except OSError:  # some file systems only say now that there is no room
            self._remove(path)
            raise
        return path

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._names.discard(path.name)

    def close(self) -> None:
        """Close what is still open; a file without its last piece is removed."""
        for descriptor, path in self._open.values():
            os.close(descriptor)
            path.unlink(missing_ok=True)
        self._open.clear()

    def _create(self, name: str) -> tuple[int, Path]:
        base = name.replace("\\", "/").rsplit("/", 1)[-1].replace("\0", "")
        if base in {"", ".", ".."} or len(os.fsencode(base)) > 200:
            raise InvalidRequest(f"{name[:80]!r} is no name for a file. Save it under a plain, shorter name.")
        if len(self._names) >= MAX_FILES:
            raise InvalidRequest(f"The job saved more than {MAX_FILES} files. Put them into one archive.")
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        stem, dot, suffix = base.partition(".")
        number = 1
        while base in self._names:
            number += 1
            base = f"{stem}-{number}{dot}{suffix}"
        path = self.root / base
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        self._names.add(base)
        return descriptor, path

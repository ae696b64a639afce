"""Where the files that a job saves go: a private folder per job."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InvalidRequest

MAX_FILES = 1_000


class AssetFolder:
    """Files of one job below `root`, which is made (0700) when the first one comes.

    Names are the last part of what the job calls a file; one that is taken gets a number.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.root = root
        self._left = max_bytes
        self._open: dict[str, tuple[int, Path]] = {}
        self._names: dict[str, str] = {}

    def write(self, name: str, data: bytes, *, last: bool) -> Path | None:
        """Add a piece to a file; its path once the last piece is in, else `None`.

        Raises `InvalidRequest` for a name without a last part, too many files or too many bytes.
        """
        self._left -= len(data)
        if self._left < 0:
            raise InvalidRequest("The job saved more than it may bring back. Raise --max-transfer, or save less.")
        if name not in self._open:
            self._open[name] = self._create(name)
        descriptor, path = self._open[name]
        while data:
            data = data[os.write(descriptor, data) :]
        if not last:
            return None
        os.close(self._open.pop(name)[0])
        return path

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
        taken = set(self._names.values())
        number = 1
        while base in taken:
            number += 1
            base = f"{stem}-{number}{dot}{suffix}"
        self._names[f"{len(self._names)}:{name}"] = base
        path = self.root / base
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o600), path

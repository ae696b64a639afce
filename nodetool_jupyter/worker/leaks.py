"""What a job changed in the process that it shares: seen by comparing before and after, never undone."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN = 5


class Snapshot:
    """Working directory, environment and `sys.path` at one moment."""

    def __init__(self) -> None:
        self.folder = _folder()
        self.environ: dict[bytes, bytes] = vars(os.environ)["_data"].copy()  # a copy of the view decodes it all
        self.path = list(sys.path)

    def changes_since(self) -> Iterator[str]:
        """A sentence for each thing that is different now."""
        now = Snapshot()
        if now.folder != self.folder:
            yield f"The working directory is now {now.folder!r} (it was {self.folder!r})."
        names = {os.fsdecode(name) for name, _ in self.environ.items() ^ now.environ.items()}
        if names:
            yield f"Environment variables were changed: {_listed(names)}."
        if now.path != self.path:
            changed = set(now.path) ^ set(self.path)
            yield f"sys.path was changed: {_listed(changed)}." if changed else "The order of sys.path was changed."


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, shown)) + more


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that is gone"

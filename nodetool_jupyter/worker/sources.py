"""Cells by the file names of their code: what a person calls them, and their lines for tracebacks and `inspect`."""

from __future__ import annotations

import sys

from .execute import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

MOST_BYTES = 1 << 20
_names: dict[str, str] = {}


def remember(filename: str, code: str) -> None:
    """Let tracebacks and `inspect` find a cell's lines."""
    import linecache

    linecache.cache[filename] = (len(code), None, code.splitlines(True), filename)


def gather(filenames: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name and source of each of these that is a cell of this process; together up to 1 MiB."""
    import linecache

    found: dict[str, tuple[str, str]] = {}
    room = MOST_BYTES
    for filename in filenames:
        entry: Any = linecache.cache.get(filename)
        if not entry or len(entry) != 4 or entry[1] is not None:  # with a time it is a file, without lines not read yet
            continue
        text = "".join(entry[2])
        size = len(filename.encode("utf-8", "replace")) + len(text.encode("utf-8", "replace"))
        if size <= room:
            room -= size
            found[filename] = (name_of(filename), text)
    return found


def take(sent: Mapping[str, Sequence[str]]) -> None:
    """Know cells of another process, as `gather` found them there."""
    for filename, (name, code) in sent.items():
        if name:
            _names[filename] = name
        remember(filename, code)


def name_of(filename: str) -> str:
    """`Cell In[3]` for the code of a cell that this process, or the one before it, had run by IPython; else ""."""
    if filename in _names:
        return _names[filename]
    module: Any = sys.modules.get("IPython.core.interactiveshell")
    shell = module.InteractiveShell._instance if module else None  # `instance()` makes one in a job
    if shell is None:
        return ""
    name, _ = attempt(shell.compile.format_code_name, filename)
    return " ".join(name or ())

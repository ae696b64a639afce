"""`sys.stdout` and `sys.stderr` by job: what one of them prints, or redirects, is nothing to the others."""

from __future__ import annotations

import sys
from collections import deque
from types import ModuleType
from typing import Any

from ..worker.current import current

_NAMES = ("stdout", "stderr")
_newest: dict[str, StreamByJob] = {}
_retired: deque[StreamByJob] = deque(maxlen=32)


class StreamByJob:
    """A job's text goes to the job, or where it redirected it; all else where it went before."""

    def __init__(self, name: str, inner: Any) -> None:
        object.__setattr__(self, "_nodetool", (name, inner))

    def write(self, text: str) -> int:
        """Write where the calling context belongs."""
        name, inner = self._nodetool
        inside = current()
        if inside is None:
            return inner.write(text)  # type: ignore[no-any-return]  # any stream
        if name in inside.redirected:
            return inside.redirected[name].write(text)  # type: ignore[no-any-return]  # the same
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            inside.outlet.write(name, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream that is written to."""
        name, inner = self._nodetool
        inside = current()
        if inside is None:
            inner.flush()
        elif name in inside.redirected:
            inside.redirected[name].flush()

    def __getattr__(self, attribute: str) -> Any:
        name, inner = self._nodetool
        inside = current()
        redirected = inside.redirected.get(name) if inside is not None else None
        return getattr(inner if redirected is None else redirected, attribute)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "write":
            setattr(self._nodetool[1], name, value)
            return

        def write(text: str) -> Any:  # IPython notes in this way what a cell prints, which is nothing to the jobs
            return value(text) if current() is None else StreamByJob.write(self, text)

        object.__setattr__(self, "write", write)

    def __iter__(self) -> Any:
        return iter(self._nodetool[1])


class _System(ModuleType):
    """`sys`, where an assignment to a stream counts for the job that makes it, or for all who are in none.

    Another thread may uninstall it while this one assigns: `super()` would then refuse a `sys` that is no `_System`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _NAMES:
            ModuleType.__setattr__(self, name, value)
            return
        inside = current()
        if inside is None:
            ModuleType.__setattr__(self, name, _by_job(name, value))
        elif isinstance(value, StreamByJob):
            inside.redirected.pop(name, None)
        else:
            inside.redirected[name] = value


def install() -> None:
    """Tell the streams of jobs apart from now on."""
    for name in _NAMES:
        setattr(sys, name, _by_job(name, getattr(sys, name)))
    sys.__class__ = _System


def uninstall() -> None:
    """Put back what is beneath."""
    sys.__class__ = ModuleType
    for name in _NAMES:
        stream = getattr(sys, name)
        if isinstance(stream, StreamByJob):
            setattr(sys, name, stream._nodetool[1])


def _by_job(name: str, stream: Any) -> Any:
    """The stream told apart. It outlives its place in `sys`: CPython's `print` goes on writing to what was there when
    it began without keeping it alive, and would crash the process."""
    if stream is None or isinstance(stream, StreamByJob):
        return stream
    known = _newest.get(name)
    if known is not None:
        if known._nodetool[1] is stream:
            vars(known).pop("write", None)
            return known
        _retired.append(known)
    made = _newest[name] = StreamByJob(name, stream)
    return made

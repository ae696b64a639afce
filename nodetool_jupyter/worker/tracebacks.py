"""Tracebacks as IPython shows them: the person's frames, their own lines, a little colour."""

from __future__ import annotations

import linecache
import os
import traceback

from .execute import attempt, own_folder
from .sources import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

    from .current import Report

_RED, _GREEN, _CYAN, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[39m"
_RULE = _RED + "-" * 75 + _PLAIN
_CONTEXT_LINES = 2
_MOST_FRAMES = 40
_MOST_CHARACTERS = 10_000
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
_OURS = os.path.dirname(own_folder()) + "/"
_ASYNCIO = os.path.dirname(linecache.__file__) + "/asyncio/"

Position = tuple["FrameType", int]


def describe(error: BaseException, *, cancelled: bool = False) -> Report:
    """The report of work that ended with an exception."""
    text, failure = attempt(str, error)
    evalue = f"<{type(error).__name__} whose text can't be made>" if failure or text is None else text
    lines, failure = attempt(format_exception, error)
    if lines is None:
        lines = [f"{type(error).__name__}: {evalue}"]
    return {
        "type": "raised",
        "ename": type(error).__name__,
        "evalue": _cut(evalue),
        "traceback": [_cut(line) for line in lines],
        "cancelled": cancelled,
    }


def format_exception(error: BaseException) -> list[str]:
    """The lines of a traceback, beginning with the exception that came first."""
    chain: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    joint = ""
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        chain.append((link, joint))
        if link.__cause__ is not None:
            link, joint = link.__cause__, _CAUSE
        else:
            link, joint = (None if link.__suppress_context__ else link.__context__), _CONTEXT
    lines: list[str] = []
    for one, joint in reversed(chain):
        lines += _format_one(one)
        if joint:
            lines += ["", joint, ""]
    return lines


def _format_one(error: BaseException) -> Iterator[str]:
    name = type(error).__name__
    yield _RULE
    yield f"{_RED}{name}{_PLAIN}" + "Traceback (most recent call last)".rjust(75 - len(name))
    positions = _positions(error.__traceback__)
    left_out = len(positions) - _MOST_FRAMES
    for number, position in enumerate(positions):
        if left_out > 0 and number == _MOST_FRAMES // 2:
            yield f"    ... {left_out} frames ..."
        if left_out <= 0 or number < _MOST_FRAMES // 2 or number >= len(positions) - _MOST_FRAMES // 2:
            yield _format_frame(*position)
    yield from _last_lines(error)


def _positions(trace: TracebackType | None) -> list[Position]:
    """The frames of a traceback without those of this package at its two ends."""
    positions = [(frame, number) for frame, number in traceback.walk_tb(trace)]
    while positions and _is_ours(positions[0][0]):
        del positions[0]
    while positions and _is_ours(positions[-1][0]):
        del positions[-1]
    return positions


def _is_ours(frame: FrameType) -> bool:
    filename = frame.f_code.co_filename
    return filename.startswith((_OURS, _ASYNCIO))


def _format_frame(frame: FrameType, number: int) -> str:
    code = frame.f_code
    inside = "" if code.co_name == "<module>" else f" in {_CYAN}{code.co_qualname}{_PLAIN}"
    head = f"{place(code.co_filename)}, line {_GREEN}{number}{_PLAIN}{inside}"
    context = 0 if is_file(code.co_filename) else _CONTEXT_LINES
    lines = []
    for near in range(max(1, number - context), number + context + 1):
        source = linecache.getline(code.co_filename, near, frame.f_globals).rstrip("\n")
        if not source:
            continue
        if near == number:
            lines.append(f"{_GREEN}{'-' * max(1, 5 - len(str(near)))}> {near}{_PLAIN} {source}")
        else:
            lines.append(f"{_GREEN}{near:>7}{_PLAIN} {source}")
    return "\n".join([head, *lines])


def is_file(filename: str) -> bool:
    """Whether code lies in a file, and not in a cell."""
    return os.path.isabs(filename) and not name_of(filename)


def place(filename: str) -> str:
    """A file for a person: `Cell`, `Cell In[3]` or `File ~/work.py`."""
    if name := name_of(filename):
        return name
    if os.path.isabs(filename):
        home = os.path.expanduser("~").rstrip("/") + "/"
        return "File " + (f"~/{filename[len(home) :]}" if len(home) > 1 and filename.startswith(home) else filename)
    if filename.startswith("<frozen "):
        return f"File {filename}"
    name = filename.strip("<>")
    return name[:1].upper() + name[1:]


def _last_lines(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        short = traceback.TracebackException.from_exception(error.derive(error.exceptions).with_traceback(None))
        yield "".join(short.format(chain=False)).rstrip("\n")
        return
    text = "".join(traceback.TracebackException(type(error), error, None, compact=True).format_exception_only())
    name, colon, rest = text.rstrip("\n").partition(":")
    name = name.rpartition(".")[2] if name.endswith(type(error).__qualname__) else name
    if isinstance(error, SyntaxError):
        yield text.rstrip("\n")
    else:
        yield f"\n{_RED}{name}{_PLAIN}{colon}{rest}"


def _cut(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]} … ({len(text) - _MOST_CHARACTERS:,} more characters)"

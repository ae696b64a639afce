"""Text as the lines of a terminal: what `\\r`, `\\b` and erasing leave standing."""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

MOST_LINES = 500
MOST_COLUMNS = 10_000
_TOKEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[^\[\]\x1b]|\r|\x08|[^\x1b\r\x08]+", re.DOTALL
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b\n]*\x1b?)?\Z")
_MOST_UNFINISHED, _MOST_COLOUR = 256, 1_000
_ESCAPES_OF_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Lines(Struct, frozen=True):
    """Finished lines, and the one under the cursor as one cell per column, each with its colour codes.

    `dropped` counts lines that went because there were too many, `beyond` the characters to the right of the
    last column that is kept. `colour` waits for the next cell, `unfinished` is the beginning of an escape
    sequence whose rest has not come.
    """

    done: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    column: int = 0
    dropped: int = 0
    beyond: int = 0
    colour: str = ""
    unfinished: str = ""


def write(lines: Lines, text: str, *, most_lines: int = MOST_LINES, most_columns: int = MOST_COLUMNS) -> Lines:
    """The lines after more text. Cutting a text anywhere and writing the parts gives the same lines."""
    text = lines.unfinished + text
    found = _UNFINISHED.search(text, max(0, len(text) - _MOST_UNFINISHED))
    unfinished = ""
    if found:
        text, unfinished = text[: found.start()], found[0]
    first, *others = text.split("\n")
    here = _write_segment(replace(lines, unfinished=unfinished), first, most_columns)
    if not others:
        return here
    *whole, last = others
    skipped = max(0, len(whole) - most_lines)  # they would be dropped at once
    blank = replace(here, cells=(), column=0, colour="", beyond=0)
    plain = not _has_special(text)
    kept = (*lines.done, line_text(here), *(_line(blank, one, most_columns, plain=plain) for one in whole[skipped:]))
    over = max(0, len(kept) - most_lines)
    here = _write_segment(blank, last, most_columns)
    return replace(here, done=kept[over:], dropped=lines.dropped + skipped + over)


def line_text(lines: Lines) -> str:
    """The line under the cursor, with a mark where it was cut."""
    text = "".join(lines.cells) + lines.colour
    if not lines.beyond:
        return text
    what = "1 character more; %nodetool logs shows it"
    if lines.beyond > 1:
        what = f"{lines.beyond:,} characters more; %nodetool logs shows them"
    return f"{text} … [{what}]"


def plain_text(lines: Lines) -> str:
    """All of the text, without colours."""
    return _ESCAPES.sub("", "\n".join((*lines.done, line_text(lines))))


def _has_special(text: str) -> bool:
    """Whether it holds what moves the cursor, erases or colours; faster than a pattern, in texts that are long."""
    return "\r" in text or "\b" in text or "\x1b" in text


def _line(blank: Lines, text: str, most_columns: int, *, plain: bool) -> str:
    """What a whole line of text leaves standing. plain: there is nothing special around."""
    if len(text) <= most_columns and (plain or not _has_special(text)):
        return text
    return line_text(_write_segment(blank, text, most_columns))


def _write_segment(lines: Lines, segment: str, most_columns: int = MOST_COLUMNS) -> Lines:
    if not segment:
        return lines
    cells, column, colour, beyond = list(lines.cells), lines.column, lines.colour, lines.beyond
    for piece in [segment] if not _has_special(segment) else _TOKEN.findall(segment):
        if piece == "\r":
            column = 0
        elif piece == "\b":
            column = max(0, column - 1)
        elif piece[0] != "\x1b":
            column, colour = _put(cells, column, colour, piece, most_columns), ""
            beyond = max(beyond, column - most_columns)
        elif piece.endswith("m") and piece[1] == "[":
            colour += piece if len(colour) < _MOST_COLOUR else ""
        elif piece.endswith("K") and piece[1] == "[":
            _erase(cells, column, piece[2:-1])
            beyond = {"1": beyond, "2": 0}.get(piece[2:-1], min(beyond, max(0, column - most_columns)))
    return replace(lines, cells=tuple(cells), column=column, colour=colour, beyond=beyond)


def _put(cells: list[str], column: int, colour: str, text: str, most_columns: int) -> int:
    """Write over the cells from `column`; the column behind. What is too far right is not kept."""
    if len(cells) < column < most_columns:
        cells.extend(" " * (column - len(cells)))
    room = most_columns - column
    if room > 0:
        new = list(text[:room])
        new[0] = colour + new[0]
        cells[column : column + len(new)] = new
    return column + len(text)


def _erase(cells: list[str], column: int, mode: str) -> None:
    if mode == "2":
        cells.clear()
    elif mode == "1":
        cells[: column + 1] = " " * min(column + 1, len(cells))
    else:
        del cells[column:]


def squash(text: str) -> str:
    """A shorter text that leaves the same lines, wherever the cursor stood: what `\\r` overwrote is gone."""
    if "\r" not in text:
        return text
    return "\n".join(_squash_line(line) for line in text.split("\n"))


def _squash_line(line: str) -> str:
    first, found, rest = line.partition("\r")
    if not found or "\x1b" in line or "\b" in line or len(line) > MOST_COLUMNS:
        return line
    over = _write_segment(Lines(), rest)
    behind = "".join(over.cells[: over.column])
    return f"{first}\r{line_text(over)}" + (f"\r{behind}" if over.column < len(over.cells) else "")


def settled(text: str) -> str:
    """A whole text as a terminal leaves it, without colours; no line is cut."""
    return "\n".join(_settled_line(line) if _has_special(line) else line for line in text.split("\n"))


def _settled_line(line: str) -> str:
    line = _ESCAPES_OF_COLOUR.sub("", line).rstrip("\r")
    return plain_text(write(Lines(), line, most_columns=len(line))) if _has_special(line) else line

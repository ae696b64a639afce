"""Text as a terminal shows it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodetool_jupyter.view.lines import MOST_COLUMNS, Lines, plain_text, settled, squash, write

PIECES = ["a", "bc", "déjà", " ", "\r", "\b", "\n", "\r\n", "\x1b[31m", "\x1b[0m", "\x1b[K", "\x1b[2K", "\x1b", "[3"]
texts = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def shown(text: str, before: str = "") -> str:
    return plain_text(write(write(Lines(), before), text))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("one\ntwo", "one\ntwo"),
        ("10%\r20%\r100%", "100%"),
        ("hello\rHi", "Hillo"),
        ("done\r\nnext", "done\nnext"),
        ("abc\b\bX", "aXc"),
        ("\b\ba", "a"),
        ("working...\r\x1b[Kdone", "done"),
        ("ab\x1b[1Dc", "abc"),
        ("half\r\x1b[2Kx", "x"),
        ("a\x1b]0;title\x07b", "ab"),
        ("", ""),
    ],
)
def test_a_line_is_what_a_terminal_would_leave_of_it(text: str, left: str) -> None:
    assert shown(text) == left


def test_colours_stay_with_their_characters() -> None:
    lines = write(Lines(), "\x1b[31mred\x1b[0m\nplain")
    assert lines.done == ("\x1b[31mred\x1b[0m",)


@given(texts, st.data())
def test_a_text_that_comes_in_pieces_is_the_same_text(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    assert write(write(Lines(), text[:cut]), text[cut:]) == write(Lines(), text)


@given(texts, texts, texts)
@example("abcdef", "\rxy\rz", "w")
def test_squashed_text_leaves_the_same_lines_wherever_it_begins(before: str, text: str, after: str) -> None:
    assert shown(squash(text) + after, before) == shown(text + after, before)


@given(st.lists(st.text(alphabet="abc ", max_size=5), min_size=1, max_size=300))
def test_squashed_text_of_a_redrawn_line_is_short(states: list[str]) -> None:
    assert len(squash("".join(f"\r{state}" for state in states))) <= 12


def test_old_lines_go_and_are_counted() -> None:
    lines = write(Lines(), "".join(f"{n}\n" for n in range(1000)), most_lines=10)
    assert lines.done == tuple(str(n) for n in range(990, 1000))
    assert lines.dropped == 990


def test_a_line_without_end_takes_bounded_room() -> None:
    lines = Lines()
    for _ in range(5):
        lines = write(lines, "x" * 65_536)
    assert len(lines.cells) == MOST_COLUMNS


def test_a_line_that_was_cut_says_by_how_much_and_where_the_rest_is() -> None:
    lines = write(write(write(Lines(), "x" * 9_000), "y" * 10_000), "z" * 3_345 + "\nshort\n")
    cut, short = lines.done
    assert cut == "x" * 9_000 + "y" * 1_000 + " … [12,345 characters more; %nodetool logs shows them]"
    assert short == "short"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("{long}abc\x1b[2K\rx", "x"),
        ("{long}abc\r\x1b[Kx", "x"),
        ("{long}abc\b\b\x1b[K", "{long} … [1 character more; %nodetool logs shows it]"),
        ("{long}abc\rX", "X{rest} … [3 characters more; %nodetool logs shows them]"),
    ],
)
def test_what_is_erased_is_not_counted_as_cut(text: str, left: str) -> None:
    long = "x" * MOST_COLUMNS
    assert plain_text(write(Lines(), text.format(long=long))) == left.format(long=long, rest=long[1:])


@pytest.mark.parametrize("text", ["\x1b[31m{}\x1b[0m", "{}\r", "ab\r{}", "{}\b", "\x1b]0;title\x07{}"])
def test_a_settled_line_is_whole_whatever_moves_the_cursor_in_it(text: str) -> None:
    long = "x" * 25_000
    assert settled(text.format(long)) == long


def test_a_whole_text_is_settled_line_by_line_and_none_is_cut() -> None:
    long = "x" * 50_000
    assert settled(f"{long}END\n10%\r20%\nlast") == f"{long}END\n20%\nlast"


@pytest.mark.parametrize("end", ["", "\n", "the beginning of one more", "\x1b[3"])
def test_many_lines_at_once_leave_what_they_leave_one_by_one(end: str) -> None:
    text = "".join(f"{n} \x1b[31mred\x1b[0m\rover\n" if n % 7 == 0 else f"plain {n}\n" for n in range(50)) + end
    at_once = write(write(Lines(), "begun "), text, most_lines=5)
    one_by_one = write(Lines(), "begun ")
    for piece in text.splitlines(keepends=True):
        one_by_one = write(one_by_one, piece, most_lines=5)
    assert at_once == one_by_one
    assert at_once.dropped == (46 if end == "\n" else 45)

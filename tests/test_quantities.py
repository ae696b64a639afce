"""Sizes, durations and numbers as people write them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodetool_jupyter import quantities as q
from nodetool_jupyter.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512", 512),
        ("1k", 1 << 10),
        ("512m", 512 << 20),
        ("512MB", 512 << 20),
        ("2g", 2 << 30),
        ("2G", 2 << 30),
        (" 1.5GiB ", 3 << 29),
        ("1 t", 1 << 40),
        ("100b", 100),
    ],
)
def test_sizes_are_read_as_docker_reads_them(text: str, size: int) -> None:
    assert q.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("500ms", 0.5), ("5m", 300), ("1h", 3600), ("2 d", 172_800), ("0.25", 0.25)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert q.parse_duration(text) == seconds


BAD = {
    q.parse_size: ["", "0", "-1", "2x", "1e9", "nan", "g", "1 2", "99999999t", "٣x", "2gb2"],
    q.parse_duration: ["", "0", "-5", "5y", "inf", "1:30", "s", "1e3", "9" * 400],
    q.parse_number: ["", "0", "-1", "nan", "inf", "two"],
    q.parse_count: ["", "0", "-1", "1.5", "many", "²", "9" * 5000],
    q.parse_switch: ["maybe", "2", "yess"],
}


@pytest.mark.parametrize(("parse", "text"), [(parse, text) for parse, bad in BAD.items() for text in bad])
def test_a_bad_quantity_is_refused_with_its_name_and_its_text(parse: Callable[..., object], text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text, "--what")
    assert str(caught.value).startswith(f"--what {text!r} is ")


@given(st.text(max_size=12) | st.from_regex(r"\A\s*\d+\w?\s*\Z"))
def test_any_text_is_a_size_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert 1 <= q.parse_size(text) < 2**63


@given(st.text(max_size=12) | st.from_regex(r"\A\s*\d+\w?\s*\Z"))
def test_any_text_is_a_count_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert q.parse_count(text) >= 1


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_words_for_on(word: str) -> None:
    assert q.parse_switch(word) is True


@pytest.mark.parametrize("word", ["0", "False", "no", "off", ""])
def test_words_for_off(word: str) -> None:
    assert q.parse_switch(word) is False


@given(st.integers(1, 1 << 45))
def test_a_size_for_the_command_line_is_never_less_than_asked_for(size: int) -> None:
    option = q.parse_size(q.size_option(size))
    assert size <= option <= 2 * size


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (512 << 20, "512 MiB"), (1.3 * 2**30, "1.3 GiB")],
)
def test_sizes_are_written_for_people(size: float, text: str) -> None:
    assert q.format_size(size) == text


@given(st.floats(0, 2.0**60))
def test_a_written_size_never_shows_a_number_that_has_a_unit_of_its_own(size: float) -> None:
    number, unit = q.format_size(size).split()
    assert float(number) < 1024 or unit == "TiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (12.34, "12.3 s"), (59.96, "1:00"), (250, "4:10"), (3723, "1:02:03")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert q.format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [0.001, 0.0625, 0.1, 2.5, 119, 120, 3600])
def test_a_limit_of_time_is_written_so_that_the_line_takes_it(seconds: float) -> None:
    assert q.parse_timeout(q.duration_option(seconds)) == pytest.approx(seconds)
    assert not q.format_limit(seconds).startswith("0.0")


def test_the_least_memory_is_named_as_the_option_takes_it() -> None:
    told = r"--memory '1k' is too little for Python to start\. Give at least 16m, or 32m in a container\."
    with pytest.raises(InvalidRequest, match=told):
        q.parse_memory("1k", "--memory")
    assert q.parse_memory("16m") == 16 << 20

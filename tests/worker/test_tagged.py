"""Values that JSON has no word for: they come back as they were, or are refused with what in them is the trouble."""

from __future__ import annotations

import enum
import json
import math
import socket
import sys
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodetool_jupyter.worker import tagged, values
from nodetool_jupyter.worker.pickled import encode_input
from nodetool_jupyter.worker.values import BadValue, CannotTravel
from tests.worker.test_values import MOST, Received, text, there_and_back

Point = namedtuple("Point", "x y")


class Colour(enum.StrEnum):
    RED = "red"


def said(value: Any) -> Any:
    """A value with all of its types, so that what is equal and not the same differs."""
    if isinstance(value, dict):
        return dict, [(said(key), said(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [said(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted((said(item) for item in value), key=repr)
    if isinstance(value, np.ndarray):
        return type(value), value.dtype.str, value.shape, value.tobytes()
    return type(value), hex(value) if type(value) is int else repr(value)


moments = st.datetimes(timezones=st.none() | st.sampled_from([UTC, timezone(timedelta(seconds=-5), "odd")]))
scalars = (
    st.none() | st.booleans() | st.integers() | st.integers(-(2**200), 2**200) | st.floats() | text
    | st.binary(max_size=9) | st.complex_numbers() | moments | st.dates() | st.times() | st.timedeltas()
    | st.decimals(allow_nan=False)
)  # fmt: skip
keys = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=4)
everyday = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner) | st.sets(keys),
    max_leaves=12,
)


@given(everyday)
def test_everyday_values_come_back_with_their_types(value: object) -> None:
    assert said(there_and_back(value)) == said(value)


VALUES = [
    math.nan,
    [1.5, math.inf, -math.inf, -0.0],
    2**63,
    [-(2**63) - 1, 10**5000],
    {7: "a", None: 2, True: [], (1, (2,)): {}, "s": ()},
    {"$tuple": [1]},
    {"$": {"$set": 1, "b": 2}},
    complex("nan+infj"),
    datetime(2024, 3, 31, 2, 30, fold=1),
    time(1, 2, 3, 4, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    [Decimal("1.50"), Decimal("-0"), Decimal("sNaN12"), Decimal("Infinity"), Decimal("1E+999999")],
    {"w": np.arange(6.0).reshape(2, 3), "loss": math.nan, "acc": np.float32(0.5), "empty": np.zeros((0, 3))},
    {"raw": b"\0\xff", "more": bytearray(9000), "large": np.arange(5000), "cut": np.arange(99)[::7]},
    [np.datetime64("2024-01-01"), (np.str_("x"), {np.int64(3)})],
]


@pytest.mark.parametrize("value", VALUES, ids=map(str, range(len(VALUES))))
def test_each_of_these_does_and_between_two_versions_too(value: object) -> None:
    assert said(there_and_back(value)) == said(value)
    fields, buffers = encode_input("x", value, max_bytes=MOST, other_python="3.9.1")
    body = bytearray(b"".join(bytes(buffer) for buffer in buffers))
    found = values.decode(Received(fields["format"], body, fields["sizes"], fields["meta"]))
    assert said(found) == said(value)


def test_large_arrays_within_lie_aligned_on_the_received_bytes_and_can_be_written() -> None:
    value = {"a": np.arange(5001, dtype="i1"), "b": [np.arange(999.0)], "c": np.arange(3)}
    _, buffers = values.encode("x", value, max_bytes=MOST)
    assert any(np.shares_memory(np.frombuffer(buffer, np.uint8), value["a"]) for buffer in buffers)
    found = there_and_back(value)
    for array in (found["a"], found["b"][0], found["c"]):
        assert array.flags.writeable
        assert array.ctypes.data % 16 == 0


def test_a_table_within_comes_back_where_tables_do() -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    pd.testing.assert_frame_equal(there_and_back({"frame": (frame,)}, arrow=True)["frame"][0], frame)
    with pytest.raises(CannotTravel, match=r"it holds a `pandas\.(core\.frame\.)?DataFrame` at \['frame'\]"):
        values.encode("x", {"frame": frame}, max_bytes=MOST)


def test_what_is_there_twice_comes_as_two_that_are_equal() -> None:
    row = [1]
    found = there_and_back([row, row, (row,)])
    assert found == [[1], [1], ([1],)]
    assert found[0] is not found[1]


def cyclic() -> list[object]:
    value: list[object] = [1]
    value.append({"me": value})
    return value


def deep() -> list[object]:
    value: list[object] = []
    for _ in range(64):
        value = [value]
    return value


TROUBLE = [
    ({"k": [1, {"conn": socket.socket}]}, r"it holds a `type` at \['k'\]\[1\]\['conn'\], and"),
    ([1, {3, object()}], r"it holds an `object` at \[1\], in a set, and"),
    ({object()}, r": it holds an `object` in a set, and"),
    ([{(1, object()): 2}], r"it holds an `object` at \[0\], in a key of a dict, and"),
    ({1: 2, (3,): object()}, r"it holds an `object` at \[tuple\], and"),
    ({"x" * 99: object}, r"it holds a `type` at \['x{39}…\], and"),
    ([(1, Point(1, 2))], r"it holds a `[\w.]*Point` at \[0\]\[1\], and"),
    ([OrderedDict(a=1)], r"it holds a `collections\.OrderedDict` at \[0\], and"),
    ([Colour.RED], r"it holds a `[\w.]*Colour` at \[0\], and"),
    ([datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC"))], r"it holds a `zoneinfo\.ZoneInfo` at \[0\]\.tzinfo, and"),
    (["\ud800"], r"it holds a text with half a surrogate pair at \[0\], and"),
    (cyclic(), r"it refers to itself at \[1\]\['me'\], and"),
    (deep(), r": it is deeper than 64 levels, and"),
    (Point(1, 2), r"Variable 'x' \([\w.]*Point, .*: without pickle only numbers"),
]


@pytest.mark.parametrize(("value", "trouble"), TROUBLE, ids=[words[:40] for _, words in TROUBLE])
def test_a_refusal_names_what_inside_is_the_trouble(value: object, trouble: str) -> None:
    with pytest.raises(CannotTravel, match=trouble + ".*(without pickle|travel)") as caught:
        values.encode("x", value, max_bytes=MOST)
    assert str(caught.value).endswith("travel. Send one of these, or use --profile trusted.")


def test_a_value_of_too_many_parts_is_refused_before_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    value: list[object] = [math.nan]
    for _ in range(40):
        value = [value, value]
    monkeypatch.setattr(tagged, "MOST_PARTS", 1000)
    with pytest.raises(CannotTravel, match="it has more than 1,000 parts, and"):
        values.encode("x", value, max_bytes=MOST)


def test_64_levels_are_none_too_many() -> None:
    value: object = (datetime(2024, 1, 1, tzinfo=UTC),)
    for _ in range(63):
        value = (value,)
    assert there_and_back(value) == value


META = {"kind": "bytes"}
HOSTILE: list[object] = [
    {"$pickle": ["gASVAA=="]},
    {"$object": []},
    {"$os.system": ["true"]},
    {"$type": ["int"]},
    {"$tuple": {"a": 1}},
    {"$tuple": "ab"},
    {"$set": [1, 1]},
    {"$set": [[1]]},
    {"$set": [{"$Decimal": ["sNaN"]}]},
    {"$dict": [1, 2, 3]},
    {"$dict": [1, 2, True, 3]},
    {"$dict": [{}, 1]},
    {"$int": "9" * 5000},
    {"$int": "0X1"},
    {"$int": "0x_1"},
    {"$int": 1},
    {"$float": "1e999"},
    {"$float": 1.5},
    {"$complex": [1, 2.0]},
    {"$complex": [1.5]},
    {"$Decimal": [" 1"]},
    {"$Decimal": ["\u0661"]},
    {"$Decimal": ["nope"]},
    {"$Decimal": [1]},
    {"$date": [2024, 13, 1]},
    {"$date": [True, 1, 1]},
    {"$date": [10**18, 1, 1]},
    {"$datetime": [2024, 1, 1]},
    {"$datetime": [2024, 1, 1, 0, 0, 0, 0, 2, None]},
    {"$datetime": [2024, 1, 1, 0, 0, 0, 0, 0, "Europe/Paris"]},
    {"$time": []},
    {"$timedelta": [10**10, 0, 0]},
    {"$timezone": [{"$timedelta": [2, 0, 0]}]},
    {"$timezone": ["UTC"]},
    {"$bytes": ["AA=="]},
    {"$bytes": [META, "A"]},
    {"$bytes": [META, "AA==AA=="]},
    {"$bytes": [META, 1]},
    {"$bytes": [META, None]},
    {"$numpy": [{"dtype": "|O", "shape": [1]}, "AAAAAAAAAAA="]},
    {"$numpy": [{"dtype": "<i8", "shape": [2**60]}, "AAAAAAAAAAA="]},
    {"$arrow": [{}, "AAAA"]},
    {"$tuple": ["\ud800"]},
    {"\ud800": 1},
    {"$\ud800": 1},
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: ascii(hostile)[:50])
def test_what_we_would_not_say_is_not_read(hostile: object) -> None:
    for body in (json.dumps(hostile).encode(), json.dumps([{"$tuple": [hostile]}]).encode()):
        with pytest.raises(BadValue):
            values.decode(Received("tagged", body))


TAGS = ["tuple", "set", "dict", "int", "float", "complex", "Decimal", "date", "time", "datetime", "timedelta"]
tags = st.sampled_from([f"${tag}" for tag in [*TAGS, "timezone", "bytes", "numpy", "arrow", "other"]])
names = st.sampled_from(["nan", "0x1", "AA==", "1.50"])
words = st.none() | st.booleans() | st.integers(-9, 9999) | st.floats(-1e9, 1e9) | names
anything = st.recursive(
    words, lambda inner: st.lists(inner, max_size=9) | st.dictionaries(tags, inner, max_size=1), max_leaves=20
)


@given(st.dictionaries(tags, anything, min_size=1, max_size=1))
def test_whatever_is_said_is_read_or_a_bad_value(said: object) -> None:
    try:
        found = values.decode(Received("tagged", json.dumps(said, allow_nan=False).encode()))
    except BadValue:
        return
    there_and_back(found)


LEVELS = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 70 + b"]" * 70,
        b'{"$tuple":[' * 70 + b"]}" * 70,
        b'{"$tuple":[' * LEVELS + b"]}" * LEVELS,
        b'{"$date":[2024,1,1],"$date":[2024,1,2]}',
        b"[NaN]",
        b"[9223372036854775808]",
        b"\xff",
        b"",
    ],
    ids=lambda body: body[:20],
)
def test_its_json_is_read_strictly_too(body: bytes) -> None:
    with pytest.raises(BadValue):
        values.decode(Received("tagged", body))


def test_every_buffer_is_named_once() -> None:
    once = json.dumps({"$bytes": [META, None]}).encode()
    twice = json.dumps([{"$bytes": [META, None]}, {"$bytes": [META, None]}]).encode()
    for head, sizes in ((b"1", [1, 0, 1]), (twice, [len(twice), 0, 1]), (once, [len(once), 1]), (once, [len(once)])):
        with pytest.raises(BadValue):
            values.decode(Received("tagged", head + b"x" * (sum(sizes) - len(head)), sizes))
    assert values.decode(Received("tagged", once + b"x", [len(once), 0, 1])) == b"x"


COLLIDING = [{"$int": hex(number * sys.hash_info.modulus)} for number in range(8, 60_000)]


@pytest.mark.parametrize("tag", ["set", "dict"])
def test_keys_that_were_made_to_collide_are_given_up(monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    monkeypatch.setattr(tagged, "HASHING_SECONDS", 0.05)
    monkeypatch.setattr(tagged, "_SECONDS_A_KEY", 0.0)
    parts = COLLIDING if tag == "set" else [part for key in COLLIDING for part in (key, None)]
    body = json.dumps({f"${tag}": parts}).encode()
    with pytest.raises(BadValue, match="collide"):
        values.decode(Received("tagged", body))


def test_reading_imports_and_executes_nothing() -> None:
    value = {"a": (np.arange(3), math.nan, {2**70}), 1: [date(2024, 1, 1), Decimal(1)]}
    fields, buffers = values.encode("x", value, max_bytes=MOST)
    body = b"".join(bytes(buffer) for buffer in buffers)
    values.decode(Received("tagged", body, fields["sizes"]))
    seen: list[str] = []
    watching = True

    def hook(event: str, _: object) -> None:
        if watching and event in ("pickle.find_class", "exec", "compile", "import", "marshal.loads", "open"):
            seen.append(event)

    sys.addaudithook(hook)
    values.decode(Received("tagged", body, fields["sizes"]))
    watching = False
    assert seen == []

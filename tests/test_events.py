"""Events: every kind goes through the one encoder and comes back the same."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodetool_jupyter import events as ev

KINDS = get_args(ev.AnyEvent)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, plain, max_size=3)


def of_type(hint: Any, name: str) -> st.SearchStrategy[Any]:
    """Values of a field: like `st.from_type`, with what JSON can hold for `Any`."""
    if hint is Any:
        return plain
    if hint == dict[str, Any]:
        return objects
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if hint is int:
        return st.integers(0, 2**63 - 1)
    if hint is str:
        return texts
    if type(None) in get_args(hint):
        return st.none() | st.one_of(of_type(inner, name) for inner in get_args(hint) if inner is not type(None))
    if hint == tuple[ev.Signalled, ...]:
        return st.lists(built(ev.Signalled), max_size=3).map(tuple)
    if hint == dict[str, str]:
        return st.dictionaries(texts, texts, max_size=3)
    return st.from_type(hint)


def built(kind: type) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: of_type(hint, name) for name, hint in get_type_hints(kind).items()})


any_event = st.one_of(built(kind) for kind in KINDS)


@given(any_event)
def test_an_event_comes_back_as_it_was(event: ev.AnyEvent) -> None:
    assert ev.decode(ev.encode(event)) == event
    assert type(ev.decode(ev.encode(event))) is type(event)


@given(st.lists(any_event, max_size=6))
def test_a_batch_comes_back_as_it_was(batch: list[ev.AnyEvent]) -> None:
    assert ev.decode_batch(ev.encode_batch(batch)) == batch


@given(any_event)
def test_an_event_is_one_flat_object_with_its_kind(event: ev.AnyEvent) -> None:
    written = json.loads(ev.encode(event))
    assert written["type"] == event.__struct_config__.tag
    assert set(written) <= {"type", *event.__struct_fields__}


@given(any_event, texts, st.integers(1, 2**53), st.floats(0, 4e9))
def test_a_stamp_holds_over_what_the_worker_wrote(event: ev.AnyEvent, job_id: str, seq: int, ts: float) -> None:
    stamped = ev.stamp(event, job_id, seq, ts)
    assert (stamped.job_id, stamped.seq, stamped.ts) == (job_id, seq, ts)
    assert ev.stamp(stamped, event.job_id, event.seq, event.ts) == event


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("job_update", {"status", "message", "result", "error", "traceback"}),
        ("node_progress", {"node_id", "progress", "total", "chunk"}),
        ("log_update", {"node_id", "node_name", "content", "severity"}),
        ("notification", {"node_id", "content", "severity"}),
        ("output_update", {"node_id", "node_name", "output_name", "value", "output_type", "metadata"}),
    ],
)
def test_kinds_that_nodetool_has_keep_its_names(kind: str, fields: set[str]) -> None:
    (found,) = [known for known in KINDS if known.__struct_config__.tag == kind]
    assert fields <= set(found.__struct_fields__)


def test_every_event_says_whose_it_is_its_number_and_its_time() -> None:
    assert all({"job_id", "seq", "ts"} <= set(kind.__struct_fields__) for kind in KINDS)


def test_a_change_of_status_is_written_in_full() -> None:
    written = json.loads(ev.encode(ev.JobUpdate(status="running")))
    assert {"job_id", "seq", "ts", "message", "result", "error", "reason"} <= set(written)


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "invented"}',
        '{"status": "running"}',
        '{"type": "stream", "name": "stdin", "text": ""}',
        '{"type": "log_update", "content": "x", "severity": "loud"}',
        '{"type": "node_progress", "progress": "half"}',
        "[]",
        "",
        '{"type": "stream", "name": "stdout", "text": "x"',
    ],
)
def test_what_is_no_event_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        ev.decode(text)


def test_the_schema_names_every_kind() -> None:
    schema = json.loads(json.dumps(ev.json_schema()))
    assert set(schema["discriminator"]["mapping"]) == {kind.__struct_config__.tag for kind in KINDS}
    assert {kind.__name__ for kind in KINDS} <= set(schema["$defs"])


def test_the_schema_asks_for_what_an_event_must_have() -> None:
    defined = ev.json_schema()["$defs"]
    assert set(defined["Stream"]["required"]) == {"type", "name", "text"}
    assert defined["Stream"]["properties"]["name"]["enum"] == ["stderr", "stdout"]

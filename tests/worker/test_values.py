from __future__ import annotations

import ast
import io
import json
import sys
import tempfile
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nodetool_jupyter
from nodetool_jupyter.errors import ValueCannotTravel
from nodetool_jupyter.worker import pickled, values
from nodetool_jupyter.worker.pickled import encode_input
from nodetool_jupyter.worker.values import BadValue, CannotTravel

MOST = 1 << 30


@dataclass
class Received:
    format: str
    body: Any
    sizes: Any = None
    meta: dict[str, Any] = field(default_factory=dict)
    name: str = "x"

    def __post_init__(self) -> None:
        self.sizes = [len(self.body)] if self.sizes is None else self.sizes


def there_and_back(value: object, *, module: Any = values, **options: Any) -> Any:
    fields, buffers = module.encode("x", value, max_bytes=MOST, **options)
    json.dumps(fields, allow_nan=False)
    body = bytearray(b"".join(bytes(buffer) for buffer in buffers))
    return module.decode(Received(fields["format"], body, fields["sizes"], fields["meta"]))


text = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@given(plain)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    assert there_and_back(value) == value
    assert there_and_back(value, module=pickled) == value


@pytest.mark.parametrize("value", [b"", b"\0\xff", bytearray(b"abc")])
def test_bytes_come_back_with_their_type(value: object) -> None:
    found = there_and_back(value)
    assert (type(found), found) == (type(value), value)


ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(10)[::3],
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    np.zeros((0, 3)),
    np.array(5.5),
    np.array([True, False]),
    np.array(["a", "ünï"]),
    np.array([b"ab", b"c"]),
    np.array(["2024-01-01", "NaT"], dtype="M8[D]"),
    np.array([1, 2], dtype="m8[ns]"),
    np.array([1 + 2j], dtype="c8"),
    np.array([1, 2], dtype=">i4"),
    np.array([1.5], dtype="f2"),
    np.array([np.nan, np.inf]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_arrays_come_back_with_type_shape_and_order(array: np.ndarray[Any, Any]) -> None:
    found = there_and_back(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable
    if array.size > 1 and array.flags.f_contiguous and not array.flags.c_contiguous:
        assert found.flags.f_contiguous


@pytest.mark.parametrize(
    "scalar", [np.float64(1.5), np.int8(-3), np.bool_(True), np.str_("x"), np.datetime64("2024-01-01")]
)
def test_numpys_scalars_come_back_as_such(scalar: Any) -> None:
    found = there_and_back(scalar)
    assert (type(found), found) == (type(scalar), scalar)


def test_an_array_is_neither_copied_on_its_way_out_nor_when_it_comes() -> None:
    array = np.zeros(4_000_000)
    fields, (buffer,) = values.encode("x", array, max_bytes=MOST)
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)
    body = bytearray(array.nbytes)
    tracemalloc.start()
    found = values.decode(Received("numpy", body, fields["sizes"], fields["meta"]))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    found[0] = 7  # type: ignore[index]
    assert body[:8] != bytes(8)


OTHERS = ["\ud800", np.array([object()]), np.ma.array([1]), object(), range(3)]


@pytest.mark.parametrize("value", OTHERS, ids=repr)
def test_what_nothing_else_can_say_does_not_travel_without_pickle(value: object) -> None:
    with pytest.raises(CannotTravel, match=r"'x'.*without pickle.*--profile trusted"):
        values.encode("x", value, max_bytes=MOST)


@pytest.mark.parametrize("by_value", [True, False])
def test_an_open_file_is_refused_wherever_it_is_and_never_becomes_a_text_in_memory(by_value: bool) -> None:
    with open(__file__) as text, open(__file__, "rb") as binary, tempfile.NamedTemporaryFile() as temporary:
        for thing in (text, binary, temporary, [{"deep": text}]):
            with pytest.raises(CannotTravel, match=r"'x'.*an open file \(\w+\) stays in its own process"):
                pickled.encode("x", thing, max_bytes=MOST, by_value=by_value)
        with pytest.raises(ValueCannotTravel, match=r"^Variable 'log' \(_io\.TextIOWrapper, .* Use its path instead"):
            encode_input("log", text, max_bytes=MOST)


def test_a_file_that_is_only_in_memory_travels() -> None:
    found = there_and_back({"text": io.StringIO("a\n"), "bytes": io.BytesIO(b"b")}, module=pickled)
    assert (found["text"].getvalue(), found["bytes"].getvalue()) == ("a\n", b"b")


def test_what_is_in_a_list_twice_keeps_being_one_thing() -> None:
    row = [1]
    found = there_and_back([row, row], module=pickled)
    assert found[0] is found[1]


def test_depth_is_bounded_both_ways() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(CannotTravel):
        values.encode("x", deep, max_bytes=MOST)
    for depth in (100, 100_000):
        with pytest.raises(BadValue):
            values.decode(Received("json", b"[" * depth + b"]" * depth))


BAD_JSON = [
    b'{"a":1,"a":2}',
    b"NaN",
    b"[Infinity]",
    b"1e999",
    b"9223372036854775808",
    b"9" * 10_000,
    b'"\\ud800"',
    b"\xff",
    b"",
    b"1 2",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", BAD_JSON, ids=lambda body: body[:20])
def test_json_is_read_strictly(body: bytes) -> None:
    with pytest.raises(BadValue):
        values.decode(Received("json", body))


BAD_ARRAYS = [
    {"dtype": "|O", "shape": [1]},
    {"dtype": "O", "shape": [1]},
    {"dtype": "<i8,<i8", "shape": [1]},
    {"dtype": "|V8", "shape": [1]},
    {"dtype": [["a", "O"]], "shape": [1]},
    {"dtype": "<i8", "shape": [2]},
    {"dtype": "<i8", "shape": [-1]},
    {"dtype": "<i8", "shape": [True]},
    {"dtype": "<i8", "shape": [1.0]},
    {"dtype": "<i8", "shape": "1"},
    {"dtype": "<i8", "shape": [2**62, 4]},
    {"dtype": "<i8", "shape": [1] * 100},
    {"dtype": "<i8", "shape": []} | {"dtype": "<M8[xx]"},
    {"dtype": "<i8"},
    {},
]


@pytest.mark.parametrize("meta", BAD_ARRAYS, ids=str)
def test_arrays_are_checked_against_what_came(meta: dict[str, Any]) -> None:
    with pytest.raises(BadValue):
        values.decode(Received("numpy", bytes(8), meta=meta))


@pytest.mark.parametrize("kind", ["pickle", "exec", ""])
def test_pickle_is_not_decoded_where_it_is_not_allowed(kind: str) -> None:
    with pytest.raises(BadValue):
        values.decode(Received(kind, b"\x80\x05N."))


def test_a_pickle_that_is_called_json_is_no_json() -> None:
    import pickle

    with pytest.raises(BadValue):
        values.decode(Received("json", pickle.dumps([1])))


def test_sizes_must_add_up() -> None:
    for sizes in ([1], [5, -3], [1, 2]):
        with pytest.raises(BadValue):
            values.decode(Received("bytes", b"ab", sizes))


def test_decoding_without_pickle_imports_and_executes_nothing() -> None:
    there_and_back(np.arange(3))
    seen: list[str] = []
    watching = True

    def hook(event: str, _: object) -> None:
        if watching and event in ("pickle.find_class", "exec", "compile", "import", "marshal.loads"):
            seen.append(event)

    sys.addaudithook(hook)
    for fields, body in (("json", b'{"a":[1]}'), ("bytes", b"x")):
        values.decode(Received(fields, body))
    values.decode(Received("numpy", bytearray(16), meta={"dtype": "<f8", "shape": [2]}))
    watching = False
    assert seen == []


def test_the_module_without_pickle_has_none() -> None:
    folder = Path(nodetool_jupyter.__file__).parent / "worker"
    forbidden = {"pickle", "marshal", "cloudpickle", "dill", "shelve", "joblib", "pickled", "copyreg"}
    for module in ("values", "tagged", "wire", "execute"):
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & forbidden
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden
                assert not {alias.name for alias in node.names} & forbidden
            assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle")


def test_tables_travel_by_arrow_when_asked_for() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[3, 4])
    pd.testing.assert_frame_equal(there_and_back(frame, arrow=True), frame)
    table = pa.table({"a": [1, 2]})
    assert there_and_back(table, arrow=True) == table
    with pytest.raises(CannotTravel):
        values.encode("x", table, max_bytes=MOST)


def test_bytes_that_are_no_arrow_are_refused() -> None:
    with pytest.raises(BadValue):
        values.decode(Received("arrow", b"not arrow at all", meta={"kind": "table"}))


def arrow_bytes(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize(
    "column", [pa.array(range(1000)), pa.array(["x"] * 1000).dictionary_encode()], ids=["plain", "dictionary"]
)
def test_tables_that_would_grow_in_the_kernel_are_refused(compression: str, column: pa.Array) -> None:
    table = pa.table({"a": column})
    assert values.decode(Received("arrow", arrow_bytes(table), meta={"kind": "table"})) == table
    with pytest.raises(BadValue, match="Compressed tables"):
        values.decode(Received("arrow", arrow_bytes(table, compression=compression), meta={"kind": "table"}))


def test_a_table_of_nothing_can_not_be_endless() -> None:
    table = pa.table({"a": pa.nulls(1 << 20)})
    with pytest.raises(BadValue, match="1048576 rows can't be in"):
        values.decode(Received("arrow", arrow_bytes(table), meta={"kind": "dataframe"}))


def test_a_table_of_any_objects_can_not_travel_without_pickle() -> None:
    with pytest.raises(CannotTravel):
        values.encode("x", pd.DataFrame({"a": [object(), 1]}), max_bytes=MOST, arrow=True)


def test_what_keeps_arrays_and_tables_from_travelling_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(value: object) -> str:
        with pytest.raises(CannotTravel) as caught:
            values.encode("x", value, max_bytes=MOST, arrow=True)
        return str(caught.value)

    assert "it holds an array of dtype object, and without pickle" in told(np.array([None, 1], object))
    assert "it holds an array of dtype [('a', '<i8')] at ['o']" in told({"o": np.zeros(1, [("a", "<i8")])})
    assert "it holds a table with columns of any objects" in told(pd.DataFrame({"a": [object(), 1]}))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "it holds a table, which pyarrow is missing for" in told(pd.DataFrame({"a": [1]}))


@pytest.mark.parametrize("at", [0, 4, 8, 16])
def test_a_damaged_table_is_a_bad_value(at: int) -> None:
    data = bytearray(arrow_bytes(pa.table({"a": [1, 2], "b": ["x", None]})))
    data[at : at + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(BadValue):
        values.decode(Received("arrow", bytes(data), meta={"kind": "table"}))


def test_arrow_extension_types_are_refused() -> None:
    table = pa.table({"a": pa.array([b"0" * 16], pa.uuid())})
    with pytest.raises(BadValue, match="extension"):
        there_and_back(table, arrow=True)


def test_what_is_plain_and_short_goes_as_json_and_what_is_long_by_pickle() -> None:
    assert pickled.encode("x", [1, {"a": None}], max_bytes=MOST)[0]["format"] == "json"
    assert pickled.encode("x", list(range(100_000)), max_bytes=MOST)[0]["format"] == "pickle"


def test_any_object_travels_by_pickle_with_large_buffers_apart() -> None:
    value = {"frame": pd.DataFrame({"a": np.arange(100_000)}), "function": lambda x: x + 1, (1, 2): {3}}
    fields, buffers = pickled.encode("x", value, max_bytes=MOST)
    assert fields["format"] == "pickle"
    assert len(buffers) > 1
    assert memoryview(buffers[0]).nbytes < 10_000
    found = there_and_back(value, module=pickled)
    pd.testing.assert_frame_equal(found["frame"], value["frame"])
    assert found["function"](1) == 2
    assert found[1, 2] == {3}


def test_buffers_of_a_pickle_are_aligned_writable_and_not_copied() -> None:
    arrays = [np.arange(n, dtype="f8") for n in (1000, 1001, 5000)]
    for array in there_and_back({"a": arrays}, module=pickled)["a"]:
        assert array.flags.aligned
        assert array.flags.writeable
        assert array.ctypes.data % 16 == 0


def test_a_value_that_cannot_be_pickled_is_named_with_type_and_size() -> None:
    with pytest.raises(CannotTravel, match=r"Variable 'it' \(generator, \d+ B\) can't come back"):
        pickled.encode("it", (n for n in []), max_bytes=MOST)
    with pytest.raises(ValueCannotTravel, match=r"Variable 'it' \(generator, \d+ B\) can't be sent into the job"):
        encode_input("it", (n for n in []), max_bytes=MOST)
    held = r"job: it holds a `generator` at \[1\]\['deep'\]\[0\], which can't be pickled \(TypeError: "
    with pytest.raises(ValueCannotTravel, match=held):
        encode_input("it", [{lambda: 1}, {"fine": len, "deep": ((n for n in []),)}], max_bytes=MOST)


def test_a_value_that_is_too_large_is_named_with_both_sizes() -> None:
    with pytest.raises(
        ValueCannotTravel, match=r"'big' \(numpy.ndarray, 8 MiB\).* 8 MiB is more than the 1 MiB.*--max-transfer"
    ):
        encode_input("big", np.zeros(1 << 20), max_bytes=1 << 20)
    with pytest.raises(ValueCannotTravel, match="--max-transfer"):
        encode_input("big", [np.zeros(1 << 20)], max_bytes=1 << 20)


def test_for_another_version_of_python_only_neutral_values_travel() -> None:
    for value in ([1, {"a": None}], b"x", np.arange(3), np.float32(1)):
        fields, _ = encode_input("x", value, max_bytes=MOST, other_python="3.9.1")
        assert fields["format"] in ("json", "bytes", "numpy")
    with pytest.raises(
        ValueCannotTravel, match=r"it holds an `object` at \[1\], and between Python .* here and 3\.9\.1 there"
    ):
        encode_input("x", (1, object()), max_bytes=MOST, other_python="3.9.1")


class Rude:
    """Raises whatever is asked of it."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __sizeof__(self) -> int:
        raise RuntimeError

    def __reduce_ex__(self, protocol: object) -> str:
        raise RuntimeError("no")


def test_a_value_that_raises_at_every_touch_is_refused_all_the_same() -> None:
    with pytest.raises(ValueCannotTravel, match=r"can't be pickled \(RuntimeError: no\)"):
        encode_input("rude", Rude(), max_bytes=MOST)

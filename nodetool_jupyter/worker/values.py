"""Values to bytes and back without pickle: JSON, with tags where it has no word, bytes, typed arrays and, on request,
Arrow.

Nothing that is decoded here can run code. What was said about a value (`meta`) is checked against what came.
"""

from __future__ import annotations

import math
import struct
import sys

from . import wire
from .execute import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from . import tagged
    from .wire import Buffer

    Fields = dict[str, Any]
    Encoded = tuple[Fields, list[Buffer]]

    Received = Any  # what has `name`, `format`, `sizes`, `meta` and `body`, such as `frames.Value`


MOST_DEPTH = 64
PLAIN = "numbers, text, bytes, dates, numpy arrays, and lists, tuples, sets and dicts of them"
WITH_TABLES = "numbers, text, bytes, dates, numpy arrays, Arrow's tables, and lists, tuples, sets and dicts of them"
_ALIGNMENT = 64
_MOST_DIMENSIONS = 64
_OLDEST_ARROW = (15, 0)
_DICTIONARY, _BATCH = 2, 3
_DTYPE = r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f(?:2|4|8|16)|[<>]c(?:8|16|32)|[<>][mM]8(?:\[\w+\])?|\|S\d{1,9}|[<>]U\d{1,9}"


class CannotTravel(TypeError):
    """A value that can't leave the place where it is; names the variable, its type and its size."""

    def __init__(self, name: str, value: object, why: str, remedy: str) -> None:
        self.name = name
        self.type_name = type_name(value)
        self.size = size_text(size_of(value))
        self.why = why.rstrip(".")
        self.remedy = remedy.rstrip(".")
        which = f"Variable {name!r}" if name else "The value of the last expression"
        super().__init__(
            f"{which} ({self.type_name}, {self.size}) can't come back from the job: {self.why}. {self.remedy}."
        )


class NotPlain(CannotTravel):
    """A value that takes pickle. `found`: what inside of it is the trouble and where, "" when it is the whole."""

    def __init__(self, name: str, value: object, found: str) -> None:
        self.found = found
        remedy = "Send one of these, or use --profile trusted"
        super().__init__(name, value, self.only(f"without pickle only {WITH_TABLES} travel"), remedy)

    def only(self, rule: str) -> str:
        """The trouble, and the rule that makes it one."""
        return f"{self.found}, and {rule}" if self.found else rule


class TooLarge(CannotTravel):
    """A value of more bytes than may travel."""


class BadValue(ValueError):
    """Bytes that are not what they are said to be."""


def type_name(value: object) -> str:
    """The value's type as a person writes it: `int`, `pandas.DataFrame`."""
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def holding(part: object, place: str) -> str:
    """That a value has this in it."""
    kind = type_name(part)
    return f"it holds {'an' if kind[0].lower() in 'aeiou' else 'a'} `{kind}`{place}"


def size_of(value: object) -> int:
    """About how many bytes a value takes, without looking inside containers."""
    counted, _ = attempt(getattr, value, "nbytes", None)
    size = counted if type(counted) is int else attempt(sys.getsizeof, value)[0]
    return size or 0


def size_text(size: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def encode(name: str, value: object, *, max_bytes: int, arrow: bool = False) -> Encoded:
    """The fields of `frames.Value` (without `body`) and the buffers. Raises `CannotTravel`."""

    def leaf(item: object) -> tuple[str, Fields, list[Buffer]] | None:
        return _as_bytes(item) or _as_array(item) or (_as_arrow(item) if arrow else None)

    return finish(name, value, leaf(value) or _as_json(value) or _as_tagged(name, value, leaf, arrow), max_bytes)


def finish(name: str, value: object, found: tuple[str, Fields, list[Buffer]], max_bytes: int) -> Encoded:
    """Fields and buffers, if they are not too large."""
    kind, meta, buffers = found
    sizes = [memoryview(buffer).nbytes for buffer in buffers]
    if sum(sizes) > max_bytes:
        raise TooLarge(
            name,
            value,
            f"{size_text(sum(sizes))} is more than the {size_text(max_bytes)} that a value may have",
            "Write it to a file and pass its path, or raise --max-transfer",
        )
    fields = {"name": name, "format": kind, "type_name": type_name(value), "sizes": sizes, "meta": meta}
    return fields, buffers


def decode(value: Received) -> object:
    """The object. Raises `BadValue` when the bytes are not what their description says."""
    if value.format == "object":
        return value.body
    view = memoryview(value.body).cast("B")
    if sum(value.sizes) != view.nbytes or min(value.sizes, default=0) < 0:
        raise BadValue(f"Value {value.name!r} has {view.nbytes} bytes, not the {sum(value.sizes)} that it announced.")
    if value.format == "tagged":
        return _from_tagged(parts(view, value.sizes))
    if value.format not in _DECODERS:
        raise BadValue(f"Value {value.name!r} came as {value.format!r}, which is not decoded here.")
    return _DECODERS[value.format](view, value.meta)


def aligned(first: bytes, others: Iterable[Buffer]) -> list[Buffer]:
    """Buffers one after another, each of the others preceded by padding that keeps it aligned."""
    buffers: list[Buffer] = [first]
    end = len(first)
    for each in others:
        padding = -end % _ALIGNMENT
        buffers += [bytes(padding), each]
        end += padding + memoryview(each).nbytes
    return buffers


def parts(view: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """What `aligned` put one after another, without the padding. Raises `BadValue`."""
    if sum(sizes) != view.nbytes or len(sizes) % 2 != 1 or min(sizes) < 0:
        raise BadValue(f"A value came with sizes that don't fit its {view.nbytes} bytes.")
    found = []
    for size in sizes:
        found.append(view[:size])
        view = view[size:]
    return [found[0], *found[2::2]]


def _as_bytes(value: object) -> tuple[str, Fields, list[Buffer]] | None:
    if type(value) is bytes or type(value) is bytearray:
        return "bytes", {"kind": type(value).__name__}, [value]
    return None


def _from_bytes(view: memoryview, meta: Fields) -> object:
    return bytearray(view) if meta.get("kind") == "bytearray" else bytes(view)


def _as_array(value: Any) -> tuple[str, Fields, list[Buffer]] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value).__module__ != "numpy":
        return None
    is_scalar = isinstance(value, numpy.generic)
    array = numpy.asarray(value) if is_scalar else value
    if type(array) is not numpy.ndarray or not _is_dtype(array.dtype.str) or array.dtype.metadata:
        return None
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = numpy.ascontiguousarray(array.T if fortran else array).reshape(-1)
    meta = {"dtype": array.dtype.str, "shape": list(array.shape), "order": "F" if fortran else "C", "scalar": is_scalar}
    return "numpy", meta, [memoryview(flat.view(numpy.uint8)) if flat.nbytes else b""]


def _from_array(view: memoryview, meta: Fields) -> object:
    """An array on the received bytes themselves: nothing is copied, and it can be written to."""
    kind, shape = meta.get("dtype"), meta.get("shape")
    if not isinstance(kind, str) or not _is_dtype(kind):
        raise BadValue(f"An array of type {kind!r} is not accepted.")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_DIMENSIONS
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise BadValue("An array came with a shape that is none.")
    import numpy

    try:
        dtype = numpy.dtype(kind)
    except TypeError as error:
        raise BadValue(f"An array of type {kind!r} is not accepted: {error}.") from None
    if math.prod(shape) * dtype.itemsize != view.nbytes:
        raise BadValue(f"An array of shape {tuple(shape)} and type {kind!r} does not have {view.nbytes} bytes.")
    flat = numpy.frombuffer(view, numpy.uint8).view(dtype) if view.nbytes else numpy.empty(math.prod(shape), dtype)
    array = flat.reshape(shape[::-1]).T if meta.get("order") == "F" else flat.reshape(shape)
    return array[()] if meta.get("scalar") is True and not shape else array


def _as_arrow(value: Any) -> tuple[str, Fields, list[Buffer]] | None:
    if type_name(value) not in ("pyarrow.lib.Table", "pandas.DataFrame", "pandas.core.frame.DataFrame"):
        return None
    try:
        import pyarrow  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        return None
    is_table = isinstance(value, pyarrow.Table)
    table = value if is_table else attempt(pyarrow.Table.from_pandas, value)[0]
    if table is None:  # columns of any objects
        return None
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return "arrow", {"kind": "table" if is_table else "dataframe"}, [memoryview(sink.getvalue())]


def _from_arrow(view: memoryview, meta: Fields) -> object:
    import pyarrow

    if tuple(map(int, pyarrow.__version__.split(".")[:2])) < _OLDEST_ARROW:
        raise BadValue(f"pyarrow {pyarrow.__version__} runs code that is in a table. Install 15 or newer.")
    try:
        if any(_is_compressed(bytes(message.metadata)) for message in pyarrow.ipc.MessageReader.open_stream(view)):
            raise BadValue("Compressed tables are not accepted.")
        with pyarrow.ipc.open_stream(pyarrow.py_buffer(view)) as reader:
            if any(isinstance(field.type, pyarrow.BaseExtensionType) for field in reader.schema):
                raise BadValue("Arrow extension types are not accepted.")
            table = reader.read_all()
        if table.num_rows * table.num_columns > 8 * view.nbytes:  # all of nothing: it would be large only here
            raise BadValue(f"A table of {table.num_rows} rows can't be in {view.nbytes} bytes.")
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError, struct.error, IndexError) as error:
        raise BadValue(f"Bytes that were to be an Arrow table are none: {error}.") from None
    return table.to_pandas() if meta.get("kind") == "dataframe" else table


def _is_compressed(message: bytes) -> bool:
    """Whether the head of a message says so: in its record batch, or in that of its dictionary."""
    (root,) = struct.unpack_from("<I", message)
    at, kind_at = _field(message, root, 2), _field(message, root, 1)
    kind = message[kind_at] if kind_at else 0
    if kind == _DICTIONARY and at:
        at = _field(message, at + struct.unpack_from("<I", message, at)[0], 1)
    if kind not in (_DICTIONARY, _BATCH) or not at:
        return False
    return bool(_field(message, at + struct.unpack_from("<I", message, at)[0], 3))


def _field(message: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table lies; 0 when it is left out."""
    fields = table - struct.unpack_from("<i", message, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", message, fields)[0]:
        return 0
    offset = struct.unpack_from("<H", message, fields + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _is_dtype(text: str) -> bool:
    import re  # which few values need, and which takes longer than this whole package

    return re.fullmatch(_DTYPE, text) is not None


def _as_json(value: object) -> tuple[str, Fields, list[Buffer]] | None:
    if not fits_json(value):
        return None
    return "json", {}, [wire.dumps(value).encode()]


def fits_json(value: object, *, most_items: float = math.inf) -> bool:
    """Whether JSON gives back exactly this value: plain types, no NaN, nothing twice, not too deep or too much."""
    seen: set[int] = set()
    level: list[Any] = [value]
    items = 0
    for _ in range(MOST_DEPTH):
        following: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is list or kind is dict:
                if id(item) in seen or not _has_text_keys(item):
                    return False
                seen.add(id(item))
                following.extend(item.values() if isinstance(item, dict) else item)
            elif not _is_plain_scalar(item):
                return False
        items += len(following)
        if not following or items > most_items:
            return items <= most_items
        level = following
    return False


def _has_text_keys(item: Any) -> bool:
    return not isinstance(item, dict) or all(type(key) is str and _is_text(key) for key in item)


def _is_plain_scalar(item: Any) -> bool:
    kind = type(item)
    if kind is int:
        return bool(-(2**63) <= item < 2**63)
    if kind is float:
        return math.isfinite(item)
    return item is None or kind is bool or (kind is str and bool(_is_text(item)))


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_json(view: memoryview, meta: Fields) -> object:
    """Strict: no key twice, no NaN, no integers beyond 64 bits, no lone surrogates, at most 64 levels."""
    found = _load(view)
    if not fits_json(found):
        raise BadValue(f"JSON deeper than {MOST_DEPTH} levels, or with half a surrogate pair, is not accepted.")
    return found


def _as_tagged(name: str, value: object, leaf: tagged.Leaf, arrow: bool) -> tuple[str, Fields, list[Buffer]]:
    from . import tagged

    try:
        return "tagged", {}, aligned(*tagged.encode(value, leaf))
    except tagged.Stuck as stuck:
        why = stuck.why or tagged.trouble(stuck.thing, tables=arrow)
        found = f"{why}{stuck.place()}" if why else holding(stuck.thing, stuck.place())
        raise NotPlain(name, value, found if why or stuck.steps else "") from None


def _from_tagged(came: list[memoryview]) -> object:
    from . import tagged

    try:
        return tagged.decode(_load(came[0]), came[1:], lambda kind, view, meta: _DECODERS[kind](view, meta))
    except BadValue:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise BadValue(f"Bytes that were to be a value are none: {error}.") from None


def _load(view: memoryview) -> Any:
    """JSON, but for its depth and its text."""
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadValue("JSON with one key twice is not accepted.")
        return found

    def refuse(word: str) -> object:
        raise BadValue(f"JSON with {word} is not accepted.")

    def whole(digits: str) -> int:
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
            raise BadValue("JSON with an integer beyond 64 bits is not accepted.")
        return int(digits)

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse("a number beyond double precision")  # type: ignore[return-value]

    try:
        return json.loads(
            str(view, "utf-8"), object_pairs_hook=unique, parse_constant=refuse, parse_int=whole, parse_float=finite
        )
    except RecursionError:
        raise BadValue(f"JSON deeper than {MOST_DEPTH} levels is not accepted.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadValue(f"Bytes that were to be JSON are none: {error}.") from None


_DECODERS: dict[str, Callable[[memoryview, Fields], object]] = {
    "json": _from_json,
    "bytes": _from_bytes,
    "numpy": _from_array,
    "arrow": _from_arrow,
}

"""Values that may be any object: by pickle with large buffers apart, and by nothing more than needed.

Decoding runs code of whoever made the bytes; only `transfer` and the notebook decide when that is allowed.
"""

from __future__ import annotations

import pickle
import sys
from _io import _IOBase
from collections import ChainMap
from io import BytesIO, StringIO
from itertools import islice
from types import CodeType, FunctionType, MethodType

from . import values
from .execute import attempt
from .values import CannotTravel, NotPlain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .values import Encoded, Received
    from .wire import Buffer

_APART_FROM_BYTES = 4096
_MOST_JSON_ITEMS = 10_000
_MOST_LOOKED_AT = 10_000
_FILENAME = 10  # among the arguments of `CodeType`, in every version from 3.8


def encode(
    name: str, value: object, *, max_bytes: int, by_value: bool = True, files: set[str] | None = None
) -> Encoded:
    """The fields of `frames.Value` (without `body`) and the buffers. Raises `CannotTravel`.

    `by_value`: functions and classes of the cell go along as code, which only the same version of Python reads.
    `files` gets the file names that this code has.

    Plain values go as `values.encode` sends them. Buffers of a pickle are not copied, so the value must not
    change before they are sent; each is preceded by padding that keeps it aligned.
    """
    plain = type(value) in (bytes, bytearray) or type(value).__module__ == "numpy"
    if plain or values.fits_json(value, most_items=_MOST_JSON_ITEMS):
        try:
            return values.encode(name, value, max_bytes=max_bytes)
        except NotPlain:
            pass
    return values.finish(name, value, ("pickle", {}, _pickle(name, value, by_value, files)), max_bytes)


def decode(value: Received) -> object:
    """The object, by pickle or as `values.decode` does; numpy arrays lie on the received bytes themselves."""
    if value.format != "pickle":
        return values.decode(value)
    view = memoryview(value.body).cast("B")
    data, *buffers = values.parts(view, value.sizes)
    return pickle.loads(data, buffers=buffers)  # noqa: S301 - the caller's decision


def encode_input(
    name: str, value: object, *, max_bytes: int, other_python: str = "", files: set[str] | None = None
) -> Encoded:
    """An input on its way into a job: the fields of `frames.Value` (without `body`) and its buffers.

    `other_python`: the job's version where its minor one is another; then only what `values` knows. `files` gets
    the file names of code that goes along. Raises `ValueCannotTravel` with the variable's name, type and size.
    """
    from ..errors import ValueCannotTravel

    try:
        if other_python:
            return values.encode(name, value, max_bytes=max_bytes)
        return encode(name, value, max_bytes=max_bytes, files=files)
    except CannotTravel as error:
        why, remedy = error.why, error.remedy
        if isinstance(error, NotPlain):
            mine = sys.version.split()[0]
            why = error.only(f"between Python {mine} here and {other_python} there only {values.PLAIN} travel")
            remedy = "Send one of these, or use the kernel's own Python"
        raise ValueCannotTravel(name, error.type_name, error.size, why, remedy) from None


class _OpenFile(Exception):
    """An open file, which cloudpickle would turn into a text in memory."""


def _refuse_file(thing: object) -> None:
    if isinstance(thing, _IOBase) and not isinstance(thing, BytesIO | StringIO):
        if thing is sys.stdout or thing is sys.stderr:  # they go by name
            return
        raise _OpenFile(type(thing).__qualname__)


class _ByReference(pickle.Pickler):
    """Refuses what the other side could not look up, instead of leaving that to the other side."""

    def reducer_override(self, thing: Any) -> Any:
        _refuse_file(thing)
        if isinstance(thing, type | FunctionType) and thing.__module__ == "__main__":
            raise pickle.PicklingError(
                f"{thing.__qualname__} is defined in the cell, and {sys.executable} can't send code"
            )
        return NotImplemented


def _noting(base: Any, files: set[str]) -> Any:
    """A cloudpickler that notes the file names of code; it keeps them, where others are all called <dynamic-code>."""

    def reduce(code: CodeType) -> Any:
        files.add(code.co_filename)
        make, made_of = base.dispatch_table[CodeType](code)
        return make, (*made_of[:_FILENAME], code.co_filename, *made_of[_FILENAME + 1 :])

    return type("Noting", (base,), {"dispatch_table": ChainMap({CodeType: reduce}, base.dispatch_table)})


_by_value: list[Any] = []


def _pickler_by_value() -> Any:
    """cloudpickle's, which sends code along, but for open files. Raises `ImportError`."""
    if not _by_value:
        import cloudpickle  # type: ignore[import-untyped]  # it has no types

        class ByValue(cloudpickle.Pickler):  # type: ignore[misc]  # the same
            def reducer_override(self, thing: Any) -> Any:
                _refuse_file(thing)
                if isinstance(thing, MethodType) and thing.__name__ == "get_ipython":  # a cell's own, which `!` uses
                    from .shell import get_ipython_here

                    return get_ipython_here, ()
                return super().reducer_override(thing)

        _by_value.append(ByValue)
    return _by_value[0]


def _dump(
    value: object, keep_inside: Callable[[pickle.PickleBuffer], bool], by_value: bool, files: set[str] | None
) -> bytes:
    pickler: Any = _ByReference
    try:
        if by_value:
            pickler = _pickler_by_value() if files is None else _noting(_pickler_by_value(), files)
    except ImportError:
        pass
    target = BytesIO()
    pickler(target, protocol=5, buffer_callback=keep_inside).dump(value)
    return target.getvalue()  # without a copy, and nothing that is held by what is collected with it


def _pickle(name: str, value: object, by_value: bool, files: set[str] | None) -> list[Buffer]:
    kept: list[memoryview] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= _APART_FROM_BYTES:
            kept.append(raw)
        return raw.nbytes < _APART_FROM_BYTES

    data, error = attempt(_dump, value, keep_inside, by_value, files)
    if isinstance(error, MemoryError):
        raise error
    if data is None:
        assert error is not None
        trouble, place = _find_trouble(value, by_value) if not isinstance(error, RecursionError) else (value, "")
        raise _refusal(name, value, error, values.holding(trouble, place) if place else "") from None
    return values.aligned(data, kept)


def _refusal(name: str, value: object, error: Exception, holding: str) -> CannotTravel:
    """holding: what in it is the trouble, and where; "" for the whole."""
    if isinstance(error, _OpenFile):
        why = f"an open file ({error}) stays in its own process{f', and {holding}' if holding else ''}"
        return CannotTravel(name, value, why, "Use its path instead, and open it where it is read")
    why = f"{f'{holding}, which' if holding else 'it'} can't be pickled ({type(error).__name__}: {error})"
    if isinstance(error, RecursionError):
        why = "it refers to itself too deeply"
    return CannotTravel(name, value, why, "Make it anew where it is needed, or send the plain data in it")


def _find_trouble(value: Any, by_value: bool) -> tuple[object, str]:
    """The innermost part that can't be pickled by itself, and its place; as far as lists, dicts and the like go."""
    from .tagged import index_text

    def fails(part: object) -> bool:
        return attempt(_dump, part, lambda _: False, by_value, None)[1] is not None

    place = ""
    for _ in range(values.MOST_DEPTH):
        steps: Iterable[tuple[str, Any]] = ()
        if type(value) is dict:
            steps = ((index_text(key), part) for key, part in value.items())
        elif type(value) in (list, tuple):
            steps = ((f"[{at}]", part) for at, part in enumerate(value))
        found = next(((step, part) for step, part in islice(steps, _MOST_LOOKED_AT) if fails(part)), None)
        if found is None:
            return value, f" at {place}" if place else ""
        place, value = place + found[0], found[1]
    return value, f" at {place[:100]}…"

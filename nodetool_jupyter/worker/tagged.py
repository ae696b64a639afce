"""Everyday values that JSON has no word for, within JSON: a tag for each type, of which there are those below alone.

    {"$tuple": [1, {"$float": "nan"}]}      {"$dict": [1, "one", 2, "two"]}      {"$numpy": [META, BASE64 or null]}

An object of one key that begins with `$` is such a tag. `null` stands for the next of the buffers that come along.
A type is said exactly: what is derived from one is refused, and never becomes what it is derived from.
"""

from __future__ import annotations

import math
import sys
from binascii import a2b_base64, b2a_base64
from time import thread_time

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from .wire import Buffer

    Leaf = Callable[[object], "tuple[str, dict[str, Any], list[Buffer]] | None"]
    Read = Callable[[str, memoryview, dict[str, Any]], object]

MOST_DEPTH = 64
MOST_PARTS = 20_000_000
HASHING_SECONDS = 2.0
"""And `_SECONDS_A_KEY` for each: more than any but keys that were chosen so that all of them meet in one place."""
_SECONDS_A_KEY = 20e-6
_FEW_KEYS = 64
_LEVELS_OF_A_TIME = 3  # with a zone, which has a distance
_INLINE_BYTES = 4096
_LOW, _HIGH = -(2**63), 2**63
_BARE = frozenset([int, float, bool, type(None)])
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_SHOWN_CHARACTERS = 40


class Stuck(Exception):
    """Something within a value that can't be said. `why`: what its type doesn't tell; `None`: the whole is too much."""

    def __init__(self, thing: object, why: str = "") -> None:
        self.thing = thing
        self.why = why
        self.steps: list[str] = []

    def place(self) -> str:
        """Where it is: ` at [1]['conn']`; "" for the value itself."""
        steps = self.steps[::-1] if self.thing is not None else []
        words = next((step for step in steps if step.startswith(" ")), "")
        path = "".join(steps[: steps.index(words)] if words else steps)
        path = f"{path[:100]}…" if len(path) > 100 else path
        return (f" at {path}" if path else "") + ("," if path and words else "") + words


def encode(value: object, leaf: Leaf) -> tuple[bytes, list[Buffer]]:
    """JSON, and the buffers beside it. `leaf` knows bytes, arrays and tables. Raises `Stuck`."""
    speaker = _Speaker(leaf)
    said = speaker.say(value)
    return wire.dumps(said).encode(), speaker.buffers


def decode(said: object, buffers: Iterable[memoryview], read: Read) -> object:
    """The value that JSON, read strictly, and its buffers say. Raises `ValueError` and what the types' makers raise."""
    reader = _Reader(iter(buffers), read)
    value = reader.read(said)
    reader.end()
    return value


def trouble(thing: object, *, tables: bool) -> str:
    """What keeps an array, or a table where these travel, from being said; "" where a thing's type tells enough."""
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if name == "numpy.ndarray":
        return f"it holds an array of dtype {str(getattr(thing, 'dtype', ''))[:_SHOWN_CHARACTERS]}"
    if not tables or name not in ("pandas.DataFrame", "pandas.core.frame.DataFrame"):
        return ""
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        return "it holds a table, which pyarrow is missing for (in a container: --requirements 'pandas pyarrow')"
    return "it holds a table with columns of any objects"


class _Speaker:
    """Says one value."""

    def __init__(self, leaf: Leaf) -> None:
        self.buffers: list[Buffer] = []
        self._leaf = leaf
        self._open: set[int] = set()
        self._parts = 0

    def say(self, item: Any) -> Any:
        """It in JSON's terms."""
        kind = type(item)
        if item is None or kind is bool:
            return item
        if kind is str:
            if wire.strict(item) is not item:
                raise Stuck(item, "it holds a text with half a surrogate pair")
            return item
        if kind is int:
            return item if _LOW <= item < _HIGH else {"$int": hex(item)}
        if kind is float:
            return item if math.isfinite(item) else {"$float": repr(item)}
        if kind in (list, tuple, dict, set, frozenset):
            return self._container(item, kind.__name__)
        found = _arguments(item, kind)
        if found is not None:
            return {f"${kind.__name__}": self._all(found, lambda _: ".tzinfo")}
        return self._say_leaf(item)

    def _say_leaf(self, item: object) -> Any:
        found = self._leaf(item)
        if found is None:
            raise Stuck(item)
        name, meta, [buffer] = found
        size = memoryview(buffer).nbytes
        if size < _INLINE_BYTES:
            return {f"${name}": [meta, b2a_base64(buffer, newline=False).decode("ascii")]}
        self.buffers.append(buffer)
        return {f"${name}": [meta, None]}

    def _container(self, item: Any, name: str) -> Any:
        if id(item) in self._open:
            raise Stuck(item, "it refers to itself")
        if len(self._open) == MOST_DEPTH:
            raise Stuck(None, f"it is deeper than {MOST_DEPTH} levels")
        self._parts += len(item)
        if self._parts > MOST_PARTS:
            raise Stuck(None, f"it has more than {MOST_PARTS:,} parts")
        self._open.add(id(item))
        if name == "dict":
            said = self._dict(item)
        elif name == "list":
            said = self._all(item, lambda at: f"[{at}]")
        else:
            said = {f"${name}": self._all(item, (lambda at: f"[{at}]") if name == "tuple" else lambda _: " in a set")}
        self._open.discard(id(item))
        return said

    def _all(self, items: Iterable[Any], step: Callable[[int], str]) -> list[Any]:
        said: list[Any] = []
        try:
            for item in items:
                said.append(self.say(item))
        except Stuck as stuck:
            stuck.steps.append(step(len(said)))
            raise
        return said

    def _dict(self, item: dict[Any, Any]) -> Any:
        is_plain = all(type(key) is str and wire.strict(key) is key for key in item)
        if is_plain and not (len(item) == 1 and next(iter(item)).startswith("$")):
            said = {}
            try:
                for key, value in item.items():
                    said[key] = self.say(value)
            except Stuck as stuck:
                stuck.steps.append(index_text(key))
                raise
            return said
        keys = self._all(item, lambda _: " in a key of a dict")
        index = [index_text(key) for key in item] if len(item) <= _FEW_KEYS else None
        values = self._all(item.values(), lambda at: index[at] if index else index_text(_nth(item, at)))
        return {"$dict": [part for pair in zip(keys, values, strict=True) for part in pair]}


def _nth(item: dict[Any, Any], at: int) -> Any:
    return next(key for number, key in enumerate(item) if number == at)


def index_text(key: object) -> str:
    """How a person reaches what is under a key."""
    plain = type(key) in (str, int, float, bool, bytes) or key is None
    shown = repr(key) if plain and sys.getsizeof(key) < 1 << 10 else type(key).__qualname__
    return f"[{shown[:_SHOWN_CHARACTERS]}…]" if len(shown) > _SHOWN_CHARACTERS else f"[{shown}]"


def _arguments(item: Any, kind: type) -> Sequence[Any] | None:
    """What makes such a value anew, for the types of `_MADE_OF`; `None` for any other."""
    module = sys.modules.get(kind.__module__) if kind.__module__ in ("datetime", "decimal") else None
    if kind is not complex and getattr(module, kind.__name__, None) is not kind:
        return None
    made_of = _MADE_OF.get(kind.__name__)
    return made_of(item) if made_of is not None else None


_MADE_OF: dict[str, Callable[[Any], Sequence[Any]]] = {
    "complex": lambda it: (it.real, it.imag),
    "date": lambda it: (it.year, it.month, it.day),
    "time": lambda it: (it.hour, it.minute, it.second, it.microsecond, it.fold, it.tzinfo),
    "datetime": lambda it: (
        *(it.year, it.month, it.day, it.hour, it.minute, it.second, it.microsecond, it.fold),
        it.tzinfo,
    ),
    "timedelta": lambda it: (it.days, it.seconds, it.microseconds),
    "timezone": lambda it: it.__getinitargs__(),
    "Decimal": lambda it: (str(it),),
}


class _Reader:
    """Reads one value; whoever said it may be hostile."""

    def __init__(self, buffers: Iterator[memoryview], read: Read) -> None:
        self._buffers = buffers
        self._read_leaf = read
        self._depth = self._parts = self._keys = 0
        self._hashing = 0.0

    def end(self) -> None:
        """Everything that came was named."""
        if next(self._buffers, None) is not None:
            raise ValueError("there are bytes that nothing in it names")

    def read(self, said: Any) -> Any:
        """What it says."""
        kind = type(said)
        if kind is list:
            return self._all(said)
        if kind is dict:
            return self._object(said)
        if kind is str:
            return self._text(said)
        return said

    def _text(self, said: str) -> str:
        if wire.strict(said) is not said:
            raise ValueError("half a surrogate pair is not accepted")
        return said

    def _all(self, said: Any) -> list[Any]:
        if type(said) is not list:
            raise ValueError("a list is none")
        self._enter(len(said))
        found = [item if type(item) in _BARE else self.read(item) for item in said]
        self._depth -= 1
        return found

    def _enter(self, parts: int) -> None:
        self._depth += 1
        self._parts += parts
        if self._depth > MOST_DEPTH + _LEVELS_OF_A_TIME or self._parts > MOST_PARTS:
            raise ValueError(f"more than {MOST_DEPTH} levels or {MOST_PARTS:,} parts are not accepted")

    def _object(self, said: dict[str, Any]) -> Any:
        if len(said) == 1:
            [(tag, content)] = said.items()
            if tag.startswith("$"):
                return self._tagged(tag[1:], content)
        self._enter(len(said))
        found = {self._text(key): self.read(value) for key, value in said.items()}
        self._depth -= 1
        return found

    def _tagged(self, tag: str, content: Any) -> Any:
        if tag in ("bytes", "numpy", "arrow"):
            return self._leaf(tag, content)
        if tag == "tuple":
            return tuple(self._all(content))
        if tag in ("set", "frozenset"):
            members = self._all(content)
            found = set(self._hashed(members))
            if len(found) != len(members):
                raise ValueError("a set with one thing twice is not accepted")
            return found if tag == "set" else frozenset(found)
        if tag == "dict":
            parts = self._all(content)
            keys, values = parts[::2], parts[1::2]
            made = dict(zip(self._hashed(keys), values, strict=True))
            if len(made) != len(keys):
                raise ValueError("a dict with one key twice is not accepted")
            return made
        if tag in ("int", "float"):
            return _number(tag, content)
        return _made(tag, self._all(content))

    def _hashed(self, keys: list[Any]) -> Iterator[Any]:
        """The keys one after another, for as long as their hashes let a table of them be made in reasonable time."""
        begun = thread_time()
        for number, key in enumerate(keys, 1):
            yield key
            if len(keys) > _FEW_KEYS and (number % 256 == 0 or not _is_short(key)):
                most = HASHING_SECONDS + _SECONDS_A_KEY * (self._keys + number)
                if self._hashing + thread_time() - begun > most:
                    raise ValueError("keys whose hashes were made to collide are not accepted")
        self._keys += len(keys)
        self._hashing += thread_time() - begun

    def _leaf(self, name: str, content: Any) -> object:
        if type(content) is not list or len(content) != 2 or type(content[0]) is not dict:
            raise ValueError(f"{name} without a description and bytes")
        meta, text = content
        if text is None:
            view = next(self._buffers, None)
            if view is None:
                raise ValueError("bytes that it names did not come")
            return self._read_leaf(name, view, meta)
        if type(text) is not str:
            raise ValueError("bytes that are no text")
        return self._read_leaf(name, memoryview(bytearray(a2b_base64(text, strict_mode=True))), meta)


def _is_short(key: object) -> bool:
    """Whether two of these are compared in no time."""
    return type(key) in (float, str, bytes, bool) or (type(key) is int and _LOW <= key < _HIGH)


def _number(tag: str, text: Any) -> int | float:
    if type(text) is not str:
        raise ValueError("a number that is no text")
    if tag == "float":
        if text not in _NOT_FINITE:
            raise ValueError("a number that has no such name")
        return _NOT_FINITE[text]
    found = int(text, 16)  # which takes as long as it is long, unlike digits
    if hex(found) != text:
        raise ValueError("a number in another form than ours")
    return found


def _made(tag: str, arguments: list[Any]) -> Any:
    """A value of a type of `_MADE_OF`; these makers check their arguments' range."""
    if tag == "complex" and [type(part) for part in arguments] == [float, float]:
        return complex(*arguments)
    if tag == "Decimal" and [type(part) for part in arguments] == [str]:
        from decimal import Decimal

        found = Decimal(arguments[0])
        if str(found) != arguments[0]:
            raise ValueError("a number in another form than ours")
        return found
    from datetime import date, datetime, time, timedelta, timezone

    kinds = [type(part) for part in arguments]
    if tag in ("date", "timedelta") and kinds == [int] * 3:
        return date(*arguments) if tag == "date" else timedelta(*arguments)
    if tag == "timezone" and kinds in ([timedelta], [timedelta, str]):
        return timezone(*arguments)
    if tag in ("time", "datetime") and kinds and kinds[-1] in (type(None), timezone):
        *whole, fold, zone = arguments
        make: Any = time if tag == "time" else datetime
        if kinds[:-1] == [int] * (5 if tag == "time" else 8):
            return make(*whole, tzinfo=zone, fold=fold)
    raise ValueError(f"{tag[:_SHOWN_CHARACTERS]!r} is no type that is known here, or is not made of this")

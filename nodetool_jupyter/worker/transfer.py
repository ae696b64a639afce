"""Which way a job's values travel: decided by its profile, never by what a frame says."""

from __future__ import annotations

import sys

from . import values
from .values import CannotTravel, NotPlain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .current import Report
    from .values import Encoded


class Packer:
    """Makes a value's frame; pickles only where the other side will decode it.

    `by_value`: the other side has the same version of Python, so that code of the cell can go along.
    `python`: the other side's version, "" for this one's. Where its minor one is another, nothing is pickled.
    """

    def __init__(self, max_bytes: int, *, pickles: bool, by_value: bool = True, python: str = "") -> None:
        self._by_value = by_value
        self._other = python if python and python.split(".")[:2] != _version().split(".")[:2] else ""
        self._pickles = pickles and not self._other
        self._max_bytes = max_bytes

    def __call__(self, name: str, value: object) -> tuple[Report, Any]:
        """The frame's header and the buffers of its body. Raises `CannotTravel`."""
        if self._pickles:
            from . import pickled

            fields, buffers = pickled.encode(name, value, max_bytes=self._max_bytes, by_value=self._by_value)
        else:
            fields, buffers = self._plain(name, value)
        return {"type": "value", **fields}, buffers

    def _plain(self, name: str, value: object) -> Encoded:
        try:
            return values.encode(name, value, max_bytes=self._max_bytes, arrow=True)
        except NotPlain as error:
            if not self._other:
                raise
            rule = f"between Python {_version()} there and {self._other} here only {values.WITH_TABLES} travel"
            remedy = f"Send one of these, or run it with Python {'.'.join(self._other.split('.')[:2])}"
            raise CannotTravel(name, value, error.only(rule), remedy) from None


def _version() -> str:
    """This interpreter's."""
    return sys.version.split()[0]


class InputNotReadable(RuntimeError):
    """A value that the notebook sent can't be unpacked in this interpreter."""

    def __init__(self, name: str, type_name: str, why: str) -> None:
        super().__init__(f"Variable {name!r} ({type_name}) can't be unpacked in the job: {why}.")


class _Received:
    """A value frame in the shape that the decoders take."""

    def __init__(self, header: Report, body: memoryview) -> None:
        self.name: str = header["name"]
        self.format: str = header["format"]
        self.type_name: str = header.get("type_name", "")
        self.sizes: list[int] = header.get("sizes", [])
        self.meta: dict[str, Any] = header.get("meta", {})
        self.body = body


def unpack(header: Report, body: memoryview) -> object:
    """An input from the notebook; raises `InputNotReadable` in a sentence that names it."""
    from .execute import attempt
    from .pickled import decode

    received = _Received(header, body)
    found, error = attempt(decode, received)
    if error is not None:
        raise InputNotReadable(received.name, received.type_name, _why(error)) from error
    return found


def _why(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"its Python has no module {error.name!r}. Install it there, or send plain data"
    return f"{type(error).__name__}: {error}"


class Fed:
    """A value that came while the job runs: unpacked when it is asked for, by the code that asks."""

    def __init__(self, header: Report, body: memoryview) -> None:
        self._header = header
        self._body = body
        self._found: list[object] = []

    def __call__(self) -> object:
        """The value; raises `InputNotReadable`."""
        if not self._found:
            self._found.append(unpack(self._header, self._body))
        return self._found[0]

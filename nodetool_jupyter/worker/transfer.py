"""Which way a job's values travel: decided by its profile, never by what a frame says."""

from __future__ import annotations

from . import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .current import Report


class Packer:
    """Makes a value's frame; pickles only where the other side will decode it.

    `by_value`: the other side has the same version of Python, so that code of the cell can go along.
    """

    def __init__(self, max_bytes: int, *, pickles: bool, by_value: bool = True) -> None:
        self._by_value = by_value
        self._pickles = pickles
        self._max_bytes = max_bytes

    def __call__(self, name: str, value: object) -> tuple[Report, Any]:
        """The frame's header and the buffers of its body. Raises `CannotTravel`."""
        if self._pickles:
            from . import pickled

            fields, buffers = pickled.encode(name, value, max_bytes=self._max_bytes, by_value=self._by_value)
        else:
            fields, buffers = values.encode(name, value, max_bytes=self._max_bytes, arrow=True)
        return {"type": "value", **fields}, buffers


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
        return (
            f"its Python has no module {error.name!r}. Install it there (in a container: --requirements {error.name}), "
            "or send plain data"
        )
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

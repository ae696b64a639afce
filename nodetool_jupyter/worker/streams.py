"""`sys.stdout` and `sys.stderr` of a job: text goes to the job's outlet."""

from __future__ import annotations

import codecs
import io
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .current import Outlet, Report


class JobStream(io.TextIOBase):
    """A text stream that can't be closed; `fileno` is the descriptor that C code and child processes write to."""

    encoding = "utf-8"
    errors = "replace"
    newlines = None
    line_buffering = True
    mode = "w"

    def __init__(self, name: str, outlet: Outlet, descriptor: int) -> None:
        self.name = f"<{name}>"
        self._name = name
        self._outlet = outlet
        self._descriptor = descriptor
        self.buffer = _JobBytes(self)

    def redirect(self, outlet: Outlet) -> None:
        """Hand on to another outlet from now on."""
        self._outlet = outlet

    def write(self, text: str, /) -> int:
        """Hand text on; how many characters."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._outlet.write(self._name, text)
        return len(text)

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]  # bytes in the base's type
        """Hand each on."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what waits."""
        self._outlet.flush()

    def close(self) -> None:
        """Send what waits; a job's stream stays open."""
        self.flush()

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """No."""
        return False

    def fileno(self) -> int:
        """The descriptor that C code and child processes write to."""
        return self._descriptor

    def reconfigure(self, **options: object) -> None:
        """Accepted and ignored: the channel is UTF-8, line by line."""


class _JobBytes(io.BufferedIOBase):
    """The binary side of a stream, in order with its text."""

    def __init__(self, stream: JobStream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # any buffer there
        """Hand bytes on as UTF-8 text; how many bytes."""
        view = memoryview(data)
        self._stream.write(self._decoder.decode(view.tobytes()))
        return view.nbytes

    def flush(self) -> None:
        """Send what waits."""
        self._stream.flush()

    def close(self) -> None:
        """Send what waits; a job's stream stays open."""
        self.flush()

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """The descriptor that C code and child processes write to."""
        return self._stream.fileno()


class _Kept:
    """Keeps what is written to the two streams before there is a job; the outlet until then."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.streams = JobStream("stdout", self, 1), JobStream("stderr", self, 2)

    def write(self, name: str, text: str) -> None:
        self.texts.append((name, text))

    def emit(self, report: Report, body: object = None) -> None:
        return

    def flush(self) -> None:
        return

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        return


_kept: _Kept | None = None


def keep() -> None:
    """Have `sys.stdout` and `sys.stderr` of a job to come; what is written to them waits for it."""
    global _kept
    _kept = _Kept()
    sys.stdout, sys.stderr = _kept.streams


def claim(outlet: Outlet) -> None:
    """Send what is written to `sys.stdout` and `sys.stderr` here from now on, and what was kept."""
    global _kept
    if _kept is None:
        sys.stdout, sys.stderr = JobStream("stdout", outlet, 1), JobStream("stderr", outlet, 2)
        return
    for stream in _kept.streams:
        stream.redirect(outlet)
    for name, text in _kept.texts:
        outlet.write(name, text)
    _kept = None

"""`sys.stdout` and `sys.stderr` of a job: text goes to the job's outlet."""

from __future__ import annotations

import codecs
import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .current import Outlet


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

"""A real child on a real socket pair, without a supervisor: what it sends, strictly decoded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import nodetool_jupyter
from nodetool_jupyter.events import Display, NodeProgress, Stream
from nodetool_jupyter.frames import Raised, Report, Returned, Value, decode_frames
from nodetool_jupyter.worker import wire
from nodetool_jupyter.worker.pickled import decode, encode_input

HANG_GUARD_SECONDS = 60
BOOT = Path(nodetool_jupyter.__file__).parent / "worker" / "boot.py"
_PUT_ON_3 = (
    "import os, sys; n = int(sys.argv[1]); os.dup2(n, 3); n == 3 or os.close(n); os.execv(sys.argv[2], sys.argv[2:])"
)


class Child:
    """One worker process. `stdout` and `stderr` are what it wrote to descriptors 1 and 2, once it has ended."""

    def __init__(self, folder: Path, *, python: str = sys.executable, env: dict[str, str] | None = None) -> None:
        self._folder = folder
        self._python = python
        self._env = env
        self._parser = wire.Parser(max_body_bytes=1 << 32)
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        self._end, theirs = socket.socketpair()
        self._end.settimeout(HANG_GUARD_SECONDS)
        command = [self._python, "-I", "-S", str(BOOT)]
        with theirs, (self._folder / "1").open("wb") as out, (self._folder / "2").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PUT_ON_3, str(theirs.fileno()), *command],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._env,
                cwd=self._folder,
                start_new_session=True,
            )
        self._frames = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self.process.kill()
        self.process.wait()

    def send(self, header: dict[str, Any], body: Sequence[wire.Buffer] = ()) -> None:
        wire.write(self._end.fileno(), wire.encode(header, body))

    def give(self, name: str, value: object) -> None:
        fields, buffers = encode_input(name, value, max_bytes=1 << 30, files=set())
        self.send({"type": "value", **fields}, buffers)

    def run(self, code: str, *, outputs: Sequence[str] = (), **changes: Any) -> None:
        frame = {"type": "run", "code": code, "filename": "<cell>", "outputs": list(outputs), "collect": []}
        frame |= {"pickles": True, "by_value": True, "max_transfer_bytes": 1 << 30}
        frame |= {"sys_path": sys.path, "environ": {}, "secrets": {}}
        self.send({**frame, **changes})

    def next(self) -> Report | None:
        """The next report; `None` at the end of the channel."""
        return next(self._frames, None)

    def until(self, wanted: Callable[[Report], bool]) -> Report:
        return next(report for report in self._frames if wanted(report))

    def printed(self, text: str, end: str = "\n") -> None:
        """Wait until it has printed this line: `print` writes its words and the end apart, and they may come so."""
        seen = ""

        def there(report: Report) -> bool:
            nonlocal seen
            seen += report.text if isinstance(report, Stream) else ""
            return text + end in seen

        self.until(there)

    def rest(self) -> list[Report]:
        """All reports until the channel's end, and the process waited for."""
        reports = list(self._frames)
        self.exit_code = self.process.wait(HANG_GUARD_SECONDS)
        return reports

    def interrupt(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def hang_up(self) -> None:
        self._end.close()

    @property
    def stdout(self) -> str:
        return (self._folder / "1").read_text()

    @property
    def stderr(self) -> str:
        return (self._folder / "2").read_text()

    def _read(self) -> Iterator[Report]:
        while True:
            try:
                data = self._end.recv(1 << 16)
            except ConnectionResetError:
                return
            if not data:
                assert self._parser.idle
                return
            yield from decode_frames(self._parser.feed(data))


class Ran:
    """What one run of a cell reported."""

    def __init__(self, reports: list[Report], child: Child) -> None:
        self.reports = reports
        self.exit_code = child.exit_code
        self.raw_stdout, self.raw_stderr = child.stdout, child.stderr

    def text(self, name: str = "stdout") -> str:
        return "".join(report.text for report in self.reports if isinstance(report, Stream) and report.name == name)

    @property
    def stdout(self) -> str:
        return self.text()

    def of(self, *kinds: type) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kinds)]

    @property
    def terminal(self) -> Returned | Raised | None:
        found = self.of(Returned, Raised)
        assert len(found) < 2
        return found[0] if found else None

    @property
    def raised(self) -> Raised:
        assert isinstance(self.terminal, Raised), self.reports
        return self.terminal

    @property
    def displays(self) -> list[Display]:
        return self.of(Display)

    @property
    def bars(self) -> list[NodeProgress]:
        return self.of(NodeProgress)

    def value(self, name: str = "") -> Any:
        found = [value for value in self.of(Value) if value.name == name]
        assert found, f"no value {name!r} in {self.reports}"
        return decode(found[-1])

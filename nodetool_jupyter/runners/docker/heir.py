"""Who removes the containers of a kernel that died: the supervisor starts it then, and only then."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio.to_thread

from ...worker.control import Control
from ..process_supervisor import END_SECONDS, start_supervisor
from .endpoint import CONFIGURED

_log = logging.getLogger(__name__)
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from nodetool_jupyter.runners.docker.reaper import main; main(sys.argv[1])"
)


class Heir:
    """A supervisor of our own that knows what to start. From any thread: images are looked into in any."""

    def __init__(self, environ: Mapping[str, str], owner: str) -> None:
        order = {"owner": owner, "environ": {name: environ[name] for name in CONFIGURED if environ.get(name)}}
        self._argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps(order), json.dumps(sys.path)]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Control | None = None
        self._closed = False

    @property
    def announced(self) -> bool:
        """Whether anything was ever made that would have to be removed."""
        return self._process is not None

    def announce(self) -> None:
        """Have somebody there from now on; a supervisor that died is replaced. Raises `OSError`."""
        with self._lock:
            if self._closed or (self._process is not None and self._process.poll() is None):
                return
            if self._control is not None:
                self._control.close()
            self._process, end = start_supervisor(grouped=False)
            self._control = Control(end)
            self._name(self._argv)

    async def close(self, *, needed: bool) -> None:
        """End; the heir is started if it is needed even now."""
        with self._lock:
            self._closed = True
            process, control = self._process, self._control
            if process is None or control is None:
                return
            if not needed:
                self._name([])
            control.close()
        try:
            await anyio.to_thread.run_sync(process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("the supervisor (process %d) does not end", process.pid)

    def _name(self, argv: Sequence[str]) -> None:
        """What the supervisor starts when its owner is gone; nothing when it is empty."""
        with suppress(OSError):  # it died: the next call finds that
            if self._control is not None:
                self._control.send({"op": "heir", "argv": list(argv)})

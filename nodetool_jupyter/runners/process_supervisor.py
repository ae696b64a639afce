"""The manager's end of a supervisor: starts it, gives it orders, hands its reports to the workers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import anyio.to_thread

from .. import worker
from ..worker.control import Control, ControlError

_log = logging.getLogger(__name__)
_PROGRAM = Path(worker.__file__).parent / "supervisor.py"
END_SECONDS = 15.0


class Watched(Protocol):
    """Who hears what the supervisor says about a job."""

    def heard(self, message: Mapping[str, Any]) -> None:
        """A message about this job."""
        ...

    def supervisor_lost(self) -> None:
        """The supervisor is gone; nothing more will be heard."""
        ...


def start_supervisor(*, grouped: bool) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A supervisor's process and our end of its channel; it ends when that is closed. Raises `OSError`."""
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [
                *(sys.executable, "-I", "-S", str(_PROGRAM)),
                *(str(theirs.fileno()), str(os.getpid()), "grouped" if grouped else "plain"),
            ],
            cwd="/",
            env={},  # jobs can read it, and the kernel's may hold what they must not have
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, mine


class SupervisorLink:
    """One running supervisor. All methods are called on the loop on which it was made."""

    def __init__(self, *, grouped: bool) -> None:
        self._process, mine = start_supervisor(grouped=grouped)
        self.lost = False
        self._control = Control(mine)
        self._watched: dict[str, Watched] = {}
        self._waits = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(mine, self._hear)

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        return self._process.pid

    def spawn(self, order: Mapping[str, Any], descriptors: Sequence[int], watched: Watched) -> None:
        """Order a job's process. Takes over the descriptors."""
        self._watched[order["job"]] = watched
        self._send({"op": "spawn", **order}, descriptors)

    def stop(self, job: str, grace_seconds: float) -> None:
        """Begin the ladder of a stop, which runs in the supervisor."""
        self._send({"op": "stop", "job": job, "grace": grace_seconds})

    def want_usage(self, job: str) -> None:
        """Have the job's usage reported once a second."""
        self._send({"op": "usage", "job": job, "on": True})

    def keep_warm(self, order: Mapping[str, Any]) -> None:
        """Keep interpreters waiting that have imported what jobs need, instead of those before."""
        self._send({"op": "warm", **order})

    def forget(self, job: str, folder: str) -> None:
        """The job is settled and its folder removed."""
        self._watched.pop(job, None)
        self._send({"op": "forget", "folder": folder})

    async def close(self) -> None:
        """Have everything ended, and wait until the supervisor is gone."""
        self._lose()
        try:
            await anyio.to_thread.run_sync(self._process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("the supervisor (process %d) does not end", self.pid)

    def _send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        if self.lost:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        try:
            self._control.send(dict(message), descriptors)
            self._flush()
        except OSError:
            self._lose()

    def _flush(self) -> None:
        self._control.flush()
        waits = self._control.unsent > 0
        if waits and not self._waits:
            self._loop.add_writer(self._control.socket, self._writable)
        elif self._waits and not waits:
            self._loop.remove_writer(self._control.socket)
        self._waits = waits

    def _writable(self) -> None:
        try:
            self._flush()
        except OSError:
            self._lose()

    def _hear(self) -> None:
        try:
            messages = self._control.receive()
        except (OSError, ControlError, ValueError) as error:
            _log.warning("the supervisor's channel broke: %s", error)
            messages = None
        if messages is None:
            self._lose()
            return
        for message in messages:
            if message["op"] == "fault":
                _log.warning("the supervisor reports a fault: %s", message["text"])
            elif watched := self._watched.get(message["job"]):
                watched.heard(message)

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._control.socket)
        self._loop.remove_writer(self._control.socket)
        self._control.close()
        for watched in list(self._watched.values()):
            watched.supervisor_lost()

    def collect(self) -> bool:
        """Reap the supervisor of a lost link; whether it is gone."""
        return self._process.poll() is not None

"""Every exception of the package; each constructor owns its one sentence.

NodetoolError
├── Refused                 nothing was started and no job exists
│   ├── InvalidRequest      an option, a size or a piece of code can't be used
│   ├── RunnerUnavailable   the chosen runner can't run here
│   ├── LimitNotHeld        a limit that was asked for can't be enforced
│   ├── ProfileRefused      the profile and the runner don't go together
│   ├── ValueCannotTravel   an input can't be sent into the job
│   └── QueueFull           too many jobs wait already
├── JobNotFound             no job has this id
├── JobExists               a job with this id is there already
├── JobNotFinished          the result was asked for too early
├── JobFailed               the job ended as failed
├── JobCancelled            the job ended as cancelled
├── OutputMissing           the job has no such output, or it may not be decoded
├── StoreError              the job store can't be used
│   ├── StoreConflict       somebody else changed the job first
│   ├── StoreBusy           somebody else holds the store; trying again helps
│   ├── StorageFull         there is no room left where the store is
│   └── StoreDamaged        the file of the store can't be read any more
└── ProtocolError           a worker sent something that is not allowed

Interrupted, a KeyboardInterrupt: somebody stopped waiting for a job that goes on
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Self

_COLOUR = re.compile("\x1b\\[[0-9;]*m")


def _rendered(lines: Sequence[str]) -> list[str]:
    """As the shell wants it, with colours or without."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    plain = str(getattr(shell, "colors", "")).lower() == "nocolor"
    return [_COLOUR.sub("", line) if plain else line for line in lines]


class NodetoolError(Exception):
    """Base of all errors raised on purpose; `code` is stable and meant for programs."""

    code = "NT-000"

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the sentence, without frames of ours."""
        return _rendered([f"\x1b[31m{type(self).__name__}\x1b[39m: {self}"])


class Refused(NodetoolError):
    """The request was refused before anything started; no job exists.

    options: those whose values were refused, as they stand on a cell's line.
    """

    code = "NT-R00"
    options: tuple[str, ...] = ()

    def about(self, *options: str) -> Self:
        """The same, with the options whose values it refuses."""
        self.options = options
        return self


class InvalidRequest(Refused, ValueError):
    """An option, a size, a name or the code itself can't be used."""

    code = "NT-R10"


class RunnerUnavailable(Refused):
    """The chosen runner can't run on this machine now. The job was not moved to another runner."""

    code = "NT-R20"

    def __init__(self, runner: str, why: str, remedy: str) -> None:
        super().__init__(f"Runner {runner!r} is not available: {why.rstrip('.')}. {remedy.rstrip('.')}.")
        self.runner = runner


_LIMITS = {
    "wall_seconds": "--timeout",
    "memory_bytes": "--memory",
    "cpus": "--cpus",
    "pids": "--pids-limit",
    "shm_bytes": "--shm-size",
    "gpus": "--gpus",
}


def name_of_limit(limit: str) -> str:
    """A limit as a person asks for it: the option, else what `Limits` calls it."""
    return _LIMITS.get(limit, limit)


class LimitNotHeld(Refused):
    """A limit that a person asked for can't be enforced by the chosen runner on this machine."""

    code = "NT-R30"

    def __init__(self, limits: Iterable[str], runner: str, remedy: str, *, or_without: bool = True) -> None:
        self.options = tuple(sorted(map(name_of_limit, limits)))
        names = ", ".join(self.options)
        without = ", or add --best-effort to run without it" if or_without else ""
        super().__init__(
            f"Runner {runner!r} can't hold {names} here, so nothing was started. {remedy.rstrip('.')}{without}."
        )
        self.runner = runner


class ProfileRefused(Refused):
    """This runner gives no protection from untrusted code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


class ValueCannotTravel(Refused, TypeError):
    """An input can't be sent into the job; names the variable, its type and its size."""

    code = "NT-R40"

    def __init__(self, name: str, type_name: str, size: str, why: str, remedy: str) -> None:
        super().__init__(
            f"Variable {name!r} ({type_name}, {size}) can't be sent into the job: {why.rstrip('.')}. "
            f"{remedy.rstrip('.')}."
        )
        self.name = name


class QueueFull(Refused):
    """As many jobs wait as the queue takes."""

    code = "NT-Q01"

    def __init__(self, limit: int) -> None:
        super().__init__(f"Queue is full ({limit}). Nothing was queued. Wait for jobs to end, or cancel some.")


class JobNotFound(NodetoolError, LookupError):
    """No job has this id or name, or several fit."""

    code = "NT-J04"

    def __init__(self, wanted: str, matches: Sequence[str] = ()) -> None:
        if matches:
            shown = ", ".join(matches[:5])
            super().__init__(f"Several jobs fit {wanted!r}: {shown}. Give more letters of the id of one.")
        else:
            super().__init__(
                f"There is no job {wanted!r}. `%nodetool jobs` lists the ones that are known; give the beginning of an "
                "id, a name, or -1 for the last one."
            )


class JobExists(NodetoolError):
    """A job with the id that the caller chose is there already."""

    code = "NT-J09"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"A job with the id {job_id!r} exists already. Choose another id, or leave it out.")
        self.job_id = job_id


class JobNotFinished(NodetoolError, TimeoutError):
    """The job had not ended when the wait was over; the job goes on."""

    code = "NT-J08"

    def __init__(self, job_id: str, status: str, waited: float | None = None) -> None:
        after = f" after {waited:g} s" if waited is not None else ""
        super().__init__(f"Job {job_id} is still {status}{after}. It goes on; ask again, or cancel it.")


class _Ended(NodetoolError):
    """A job that did not complete; renders as the job's own traceback, then the cause."""

    def __init__(self, job_id: str, message: str, *, traceback: Sequence[str] = (), reason: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id
        self.traceback = list(traceback)
        self.reason = reason

    def _render_traceback_(self) -> list[str]:
        return _rendered([*self.traceback, *super()._render_traceback_()])


class JobFailed(_Ended):
    """The job failed; `traceback` holds the lines of the job's own traceback."""

    code = "NT-J50"


class JobCancelled(_Ended):
    """The job was cancelled before it completed."""

    code = "NT-J51"


class OutputMissing(NodetoolError, KeyError):
    """The job has no such output."""

    code = "NT-J60"

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StoreError(NodetoolError):
    """The job store can't be used; says where it is and what to do."""

    code = "NT-DB0"


class StoreConflict(StoreError):
    """The job `job_id` was changed by somebody else since it was read."""

    code = "NT-DB2"

    def __init__(self, message: str, *, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class StoreBusy(StoreError):
    """Somebody else holds the store, or it can't be reached; nothing was written, trying again helps."""

    code = "NT-DB4"


class StorageFull(StoreError):
    """There is no room left where the store is; nothing was written, trying again helps once there is."""

    code = "NT-DB3"


class StoreDamaged(StoreError):
    """The file of the store can't be read any more; the next start sets it aside."""

    code = "NT-DB5"


class ProtocolError(NodetoolError):
    """A worker sent a frame that is not allowed; the worker is stopped."""

    code = "NT-P01"


class Interrupted(KeyboardInterrupt):
    """The wait for a job was interrupted, and the job goes on; the text says how to stop it."""

    def _render_traceback_(self) -> list[str]:
        return _rendered([f"\x1b[31m{type(self).__name__}\x1b[39m: {self}"])

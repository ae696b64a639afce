"""Why a job ended: from the facts to a status, a reason and a sentence with its remedy."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from .events import Exit
from .frames import Raised, Returned
from .jobs import JobStatus, Reason, ResourceLimits
from .quantities import duration_option, format_limit, format_size, size_option

_ERROR_NUMBER = re.compile(r"\[Errno (\d+)\]")
_NO_THREAD = "can't start new thread"


class StopCause(StrEnum):
    """Why the manager stopped a worker; the first one counts."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    OVERDUE = "overdue"
    PROTOCOL = "protocol"
    STORAGE = "storage"


class Verdict(Struct, frozen=True):
    """How a job ends: `message` is what a person reads, `options` as `JobUpdate` has them."""

    status: JobStatus
    reason: Reason | None = None
    message: str = ""
    options: tuple[str, ...] = ()


def verdict(
    terminal: Returned | Raised | None,
    exit: Exit,  # noqa: A002 - the event has this name
    *,
    limits: ResourceLimits,
    held: Mapping[str, str] | None = None,
    stopped: StopCause | None = None,
    complaint: str = "",
) -> Verdict:
    """The verdict over one worker.

    `held` are the limits that were in force, with their mechanisms. `stopped` is why the manager
    stopped it, if it did so before a terminal report came; `complaint` is the sentence that goes
    with it. Success needs a result report *and* exit 0.
    """
    if exit.cause == "unkillable":
        return _failed(Reason.UNKILLABLE, f"The job could not be killed. {exit.detail}".strip())
    if exit.cause == "engine_lost":
        return _failed(
            Reason.LOST, f"{exit.detail} The job counts as lost, whatever it did. Start Docker and rerun the cell."
        )
    if stopped is StopCause.OVERDUE:
        return _raised(terminal, exit, limits, held or {}) if isinstance(terminal, Raised) else _overdue(terminal)
    if stopped is not None:
        return _stopped(stopped, limits, complaint)
    if isinstance(terminal, Returned) and exit.code == 0:
        note = "A process of the job was killed for lack of memory." if exit.cause == "out_of_memory" else ""
        return Verdict(JobStatus.COMPLETED, None, note)
    if exit.cause == "out_of_memory":
        return _failed(Reason.OUT_OF_MEMORY, _out_of_memory(limits, exit))
    if exit.cause == "limit":
        return _failed(Reason.LIMIT, _limit(limits, exit))
    if isinstance(terminal, Raised):
        return _raised(terminal, exit, limits, held or {})
    return _ended_alone(terminal, exit)


def _failed(reason: Reason, message: str) -> Verdict:
    return Verdict(JobStatus.FAILED, reason, message)


def _stopped(stopped: StopCause, limits: ResourceLimits, complaint: str) -> Verdict:
    if stopped is StopCause.CANCEL:
        return Verdict(JobStatus.CANCELLED, None, complaint or "Cancelled.")
    if stopped is StopCause.TIMEOUT:
        seconds = limits.wall_seconds or 0.0
        more = duration_option(2 * seconds)
        return _failed(
            Reason.TIMEOUT, f"Stopped: time limit {format_limit(seconds)} reached. Rerun with --timeout {more}."
        )
    return _failed(Reason.PROTOCOL if stopped is StopCause.PROTOCOL else Reason.STORAGE, complaint)


def _raised(terminal: Raised, exit: Exit, limits: ResourceLimits, held: Mapping[str, str]) -> Verdict:  # noqa: A002
    """The work's own error; where a limit of the job is behind it, with that limit and what raises it."""
    error = f"{terminal.ename}: {terminal.evalue}".rstrip(": ")
    reached = _behind(terminal, exit, held)
    if reached == "pids":
        return _failed(Reason.ERROR, f"{error}. {exit.detail}")
    value = getattr(limits, reached, None)
    if value is None:
        return _failed(Reason.ERROR, error)
    what, remedy = {
        "memory_bytes": (f"{format_size(value)} of memory", f"--memory {size_option(2 * value)}"),
        "open_files": (f"{value} open files", f"Limits(open_files={2 * value})"),
        "file_size_bytes": (f"{format_size(value)} for a file", f"Limits(file_size_bytes={2 * value})"),
    }[reached]
    reason = Reason.OUT_OF_MEMORY if reached == "memory_bytes" else Reason.ERROR
    return _failed(reason, f"{error}. The limit of {what} was reached. Rerun with {remedy}.")


def _behind(terminal: Raised, exit: Exit, held: Mapping[str, str]) -> str:  # noqa: A002
    """The limit that an error comes from: as far as its number tells, and only where it was in force."""
    found = _ERROR_NUMBER.match(terminal.evalue)
    number = int(found[1]) if found else 0
    if number == errno.EMFILE and "open_files" in held:
        return "open_files"
    if number == errno.EFBIG and "file_size_bytes" in held:
        return "file_size_bytes"
    refused = number == errno.EAGAIN or terminal.evalue.startswith(_NO_THREAD)
    if refused and exit.limit == "pids":
        return "pids"
    # a control group kills and refuses nothing: with one, this is a size that no machine has
    lacking = number == errno.ENOMEM or terminal.ename.endswith("MemoryError")
    return "memory_bytes" if lacking and held.get("memory_bytes", "").startswith("RLIMIT_DATA") else ""


def _overdue(terminal: Returned | None) -> Verdict:
    if terminal is not None:
        return _failed(Reason.NO_RESULT, "The job sent its result but its process did not end, so it was stopped.")
    return _failed(Reason.NO_RESULT, "The job closed its channel without a result and was stopped. [NT-R01]")


def _out_of_memory(limits: ResourceLimits, exit: Exit) -> str:  # noqa: A002
    if limits.memory_bytes is None:
        return f"Killed: out of memory. {exit.detail}".strip()
    more = size_option(2 * limits.memory_bytes)
    return f"Killed: memory limit {format_size(limits.memory_bytes)} reached. Rerun with --memory {more}."


_WORDS = {
    "cpu_seconds": ("processor time limit {} s reached", "a higher limit cpu_seconds"),
    "pids": ("limit of {} processes reached", "a higher --pids-limit"),
    "open_files": ("limit of {} open files reached", "a higher limit open_files"),
    "file_size_bytes": ("file size limit {} bytes reached", "a higher limit file_size_bytes"),
}


_OF_PYTHON = ("cpu_seconds", "open_files", "file_size_bytes")
"""Limits that the line has no option for."""


def _limit(limits: ResourceLimits, exit: Exit) -> str:  # noqa: A002
    what, remedy = _WORDS.get(exit.limit or "", ("limit {} reached", "a higher limit"))
    value = getattr(limits, exit.limit, None) if exit.limit else None
    if value is not None and exit.limit in _OF_PYTHON:
        what = {"file_size_bytes": f"file size limit {format_size(value)} reached"}.get(exit.limit, what)
        remedy = f"Limits({exit.limit}={2 * value})"
    if value is None and exit.detail:
        return f"Killed by a limit. {exit.detail} Rerun with {remedy}."
    return f"Killed: {what.format(value)}. Rerun with {remedy}."


def _ended_alone(terminal: Returned | None, exit: Exit) -> Verdict:  # noqa: A002
    detail = f" {exit.detail}" if exit.detail else ""
    if exit.cause == "supervisor_lost":
        return _failed(Reason.LOST, "The process that supervises jobs died, and the job with it. Rerun the cell.")
    if exit.cause == "killed":
        return _failed(Reason.KILLED, f"Killed from outside by {exit.signal}; not by a limit of this job.{detail}")
    if exit.cause == "crashed":
        name = exit.signal or "a signal"
        return _failed(Reason.CRASHED, f"The interpreter crashed with {name} ({_meaning(name)}).{detail}")
    if exit.code == 0:
        return _failed(
            Reason.NO_RESULT,
            "The job ended with exit code 0 but sent no result. "
            "It counts as failed because success cannot be proven. [NT-R01]",
        )
    after = "after its result" if terminal else "without a result"
    how = f"exit code {exit.code}" if exit.code is not None else f"signal {exit.signal}"
    return _failed(Reason.CRASHED, f"The job's process ended with {how} {after}.{detail}")


def _meaning(name: str) -> str:
    try:
        return signal.strsignal(signal.Signals[name]) or "unknown"
    except KeyError:
        return "unknown"

"""What killed a job's process: from the supervisor's receipt to an `Exit` with its evidence."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from ..errors import name_of_limit
from ..events import Exit, Signalled
from ..jobs import ResourceLimits
from ..quantities import format_size, size_option
from ..view import limit_text

_CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP"})
_MOST_DETAIL = 4_000
_FAULT = "Fatal Python error"
_CRASHED = "Current thread"
_OURS = ("/nodetool_jupyter/worker/", '"<string>", line 1 in <module>')  # the second is a container's loader


def describe(
    receipt: Mapping[str, Any],
    *,
    limits: ResourceLimits,
    defaults: Mapping[str, float],
    stderr_tail: str,
    sandbox_shm_bytes: int = 0,
) -> Exit:
    """The `Exit` of a leader whose whole tree is gone (or can't be killed).

    sandbox_shm_bytes: the size of /dev/shm where that is no limit that can be asked for.
    """
    status = int(receipt["status"])
    name = _signal_name(-status) if status < 0 else None
    cause, limit, detail = _cause(receipt, name, limits, defaults)
    if cause == "crashed":
        shared = _shared_memory(limits, defaults, sandbox_shm_bytes) if name == "SIGBUS" else ""
        detail = f"{shared} {_fault_lines(stderr_tail)}".strip()
    if receipt["refused_forks"]:
        limit = limit or "pids"
        detail = f"{detail} {_refused(receipt['refused_forks'], limits, defaults)}".strip()
    return Exit(
        cause=cause,
        code=status if status >= 0 and not receipt["stuck"] else None,
        signal=name,
        limit=limit,
        processes_reaped=receipt["reaped"],
        sent=tuple(Signalled(number, at, count) for number, at, count in receipt["sent"]),
        detail=detail,
    )


def _cause(
    receipt: Mapping[str, Any], name: str | None, limits: ResourceLimits, defaults: Mapping[str, float]
) -> tuple[str, str | None, str]:
    if receipt["stuck"]:
        return "unkillable", None, "Some of its processes were still there 10 s after SIGKILL."
    if receipt["oom_kills"] or receipt["killed_for"] == "memory_bytes":
        return "out_of_memory", "memory_bytes", _memory(receipt["peak_memory_bytes"], limits, defaults)
    if receipt["killed_for"]:
        return "limit", receipt["killed_for"], _of_the_profile(receipt["killed_for"], limits, defaults)
    if limits.cpu_seconds is not None and _used_up(receipt, name, limits.cpu_seconds):
        return "limit", "cpu_seconds", f"It used {receipt['cpu_seconds']:.1f} s."
    if name == "SIGXFSZ":
        return "limit", "file_size_bytes", _of_the_profile("file_size_bytes", limits, defaults)
    if name is None or receipt["by_us"]:
        return "", None, ""
    return ("crashed" if name in _CRASHES else "killed"), None, ""


def _used_up(receipt: Mapping[str, Any], name: str | None, cpu_seconds: float) -> bool:
    killed = name == "SIGKILL" and not receipt["by_us"]
    return name == "SIGXCPU" or (killed and receipt["cpu_seconds"] >= cpu_seconds)


def _memory(peak_bytes: int, limits: ResourceLimits, defaults: Mapping[str, float]) -> str:
    peak = f"Its peak was {format_size(peak_bytes)}." if peak_bytes else ""
    if limits.memory_bytes is None and "memory_bytes" in defaults:
        most = defaults["memory_bytes"]
        return f"The profile's limit is {format_size(most)}; ask for more with --memory {size_option(2 * most)}. {peak}"
    return peak


def _of_the_profile(limit: str, limits: ResourceLimits, defaults: Mapping[str, float]) -> str:
    """Which limit it was when nobody asked for one."""
    if getattr(limits, limit) is not None or limit not in defaults:
        return ""
    return f"The profile's limit is {limit_text(limit, defaults[limit])}{' and threads' * (limit == 'pids')}."


def _refused(count: int, limits: ResourceLimits, defaults: Mapping[str, float]) -> str:
    most = limits.pids if limits.pids is not None else int(defaults.get("pids", 0))
    times = "once" if count == 1 else f"{count} times"
    return f"The limit of {most} processes and threads was reached {times}; --pids-limit raises it."


def _shared_memory(limits: ResourceLimits, defaults: Mapping[str, float], sandbox_bytes: int) -> str:
    """What is behind SIGBUS where /dev/shm has a size: memory that is shared there and written to beyond it."""
    likely = "Most often that means that /dev/shm is full: it has"
    size = limits.shm_bytes if limits.shm_bytes is not None else defaults.get("shm_bytes", 0)
    if size:
        return f"{likely} {format_size(size)}. Rerun with --shm-size {size_option(2 * size)}."
    if not sandbox_bytes:
        return ""
    more = size_option(2 * sandbox_bytes)
    return (
        f"{likely} {format_size(sandbox_bytes)} in the sandbox. Share less, or rerun with -r docker --shm-size {more}."
    )


def _fault_lines(stderr_tail: str) -> str:
    """The last report of `faulthandler`: its first line and the thread that crashed, without our own frames."""
    start = stderr_tail.rfind(_FAULT)
    if start < 0:
        return ""
    first, _, rest = stderr_tail[start:].partition("\n")
    _, found, thread = rest.partition(_CRASHED)
    lines = [line for line in thread.splitlines() if line.startswith("  ") and not any(ours in line for ours in _OURS)]
    return "\n".join([first, *([_CRASHED + " (most recent call first):", *lines] if found else [])])[:_MOST_DETAIL]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def why_not_started(step: str, number: int, order: Mapping[str, Any]) -> str:
    """The sentence for a start that failed at this step of the supervisor's, with this error number."""
    reason = os.strerror(number) if number else "it is no program"
    if step == "cwd":
        return f"The working directory {order['cwd']!r} can't be entered: {reason}. Change to one that exists."
    if step == "python":
        python = order["argv"][0]
        return f"The interpreter {python!r} can't be started: {reason}. Check --python, or make the environment again."
    if step.startswith("limit "):
        return (
            f"{name_of_limit(step.removeprefix('limit '))} could not be set: the kernel refused the control group. "
            "Run without it, or add --best-effort."
        )
    if step == "supervisor":
        return "The process that supervises jobs died while the job started. Run it again."
    return f"The job's process could not be made: {reason}. Close what you don't need, and run it again."

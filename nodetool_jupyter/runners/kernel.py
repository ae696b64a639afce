"""What the kernel of this machine's operating system allows at most."""

from __future__ import annotations

from pathlib import Path

MOST_PROCESSES = 1 << 22
"""Of any 64-bit Linux, whatever is set: PID_MAX_LIMIT in its linux/threads.h."""
_SET = Path("/proc/sys")


def most_processes() -> float:
    """Processes and threads at once."""
    return min(MOST_PROCESSES, _number("kernel/pid_max"), _number("kernel/threads-max"))


def most_open_files() -> float:
    """The highest limit of open files that root can set for a process."""
    return _number("fs/nr_open")


def _number(name: str) -> float:
    try:
        return int((_SET / name).read_text())
    except (OSError, ValueError):
        return float("inf")

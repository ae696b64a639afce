"""What the kernel of an engine's machine allows at most, as far as it is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST_PROCESSES = 1 << 22  # of 64-bit Linux, whatever is set: PID_MAX_LIMIT in linux/threads.h
_SET = Path("/proc/sys")


def most_allowed(facts: Mapping[str, Any], *, local: bool) -> dict[str, float]:
    """The most of a limit, by its name. local: the engine's socket is on this machine.

    Such a socket may still lead to a virtual machine, or further, so that the kernel must be this one by name, too.
    """
    here = os.uname()
    if not local or (facts.get("Name"), facts.get("KernelVersion")) != (here.nodename, here.release):
        return {"pids": _MOST_PROCESSES}
    set_ = {"kernel/pid_max", "kernel/threads-max", "fs/nr_open"}
    found = {name: _number(name) for name in set_}
    pids = min(_MOST_PROCESSES, found["kernel/pid_max"], found["kernel/threads-max"])
    return {"pids": pids, "open_files": found["fs/nr_open"]}


def _number(name: str) -> float:
    try:
        return int((_SET / name).read_text())
    except (OSError, ValueError):
        return float("inf")

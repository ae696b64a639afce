"""Starting a job's leader from the single-threaded supervisor: fork, become the job, exec."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import HELD_SIGNALS

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE = b"800"
_IGNORED_HERE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
_libc = ctypes.CDLL(None, use_errno=True)


def become_reaper() -> bool:
    """Have everything that descends from this process re-parented to it; False where the kernel can't."""
    return bool(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def fork_exec(
    order: Mapping[str, Any], descriptors: Sequence[int], *, join: Callable[[int], None] | None = None
) -> tuple[int, int]:
    """Start `order`'s argv, env, cwd, rlimits and nice with `descriptors` as 1, 2, 3 and on, and /dev/null as 0.

    `join` is called with the new process in itself, before the exec: what it starts at once is then in its group,
    too. Where that raises `OSError`, there is no exec.
    Returns the new process, leader of a session of its own, and a descriptor that comes to its end
    with the exec, or gives the reason for a failure (see `failure`). The descriptors stay open here.
    `OSError` when there is no process or descriptor left.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    me = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        pid = os.fork()
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    finally:
        if os.getpid() == me:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if pid == 0:
        become(order, descriptors, write_end, parent=me, join=join)
    os.close(write_end)
    return pid, read_end


def failure(text: bytes) -> tuple[str, int] | None:
    """What went wrong between fork and exec: the step, and the error number; `None` when nothing."""
    if not text:
        return None
    step, number = json.loads(text)
    return str(step), int(number)


def become(
    order: Mapping[str, Any],
    descriptors: Sequence[int],
    report: int,
    *,
    parent: int,
    execute: bool = True,
    join: Callable[[int], None] | None = None,
) -> None:
    """Make the job's leader of this forked process; without `execute` it stays in this interpreter and returns.

    `HELD_SIGNALS` are blocked here and stay so: the new process unblocks them when it can take them.
    `report` is closed when that is done; otherwise it gets what went wrong, and the process ends.
    """
    step, number, done = "start", 0, False
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # the job's own may be below what is open here
    try:
        _leave(parent)
        report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, 16)
        _place(descriptors)
        _reset_signals()
        step = "limits"
        if join:
            join(os.getpid())
        _limit(order)
        step = "cwd"
        os.chdir(order["cwd"])
        if not execute:
            os.closerange(4, most)
            done = True
            return
        step = "python"
        os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - an argument list, no shell
    except OSError as error:
        number = error.errno or 0
    finally:  # whatever went wrong, this copy of the parent must never go on
        if not done:
            os.write(report, json.dumps([step, number]).encode())
            os._exit(127)


def _leave(parent: int) -> None:
    """A session of its own, which ends with the parent."""
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


def _place(descriptors: Sequence[int]) -> None:
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16) for descriptor in descriptors]
    high.insert(0, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    for target, descriptor in enumerate(high):
        if descriptor == target:
            os.set_inheritable(target, True)
        else:
            os.dup2(descriptor, target)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in _IGNORED_HERE:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, HELD_SIGNALS)


def _limit(order: Mapping[str, Any]) -> None:
    for name, value in order.get("rlimits", {}).items():
        which = getattr(resource, f"RLIMIT_{name}")
        hardest = resource.getrlimit(which)[1]
        pair = [part if hardest == resource.RLIM_INFINITY else min(part, hardest) for part in value]
        resource.setrlimit(which, (pair[0], pair[1]))
    if order.get("processors"):
        os.sched_setaffinity(0, order["processors"])
    if order.get("nice"):
        os.nice(order["nice"])
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, _OOM_SCORE)
        os.close(descriptor)
    except OSError:
        pass  # a sandbox without /proc: the kernel's own choice stays

"""Processes as the kernel lists them: who descends from whom, whose job they are, what they use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import NamedTuple

JOB_VARIABLE = "NODETOOL_JOB_ID"
NO_JOB = "-" * 256
"""The variable's value in a warm parent: room for a job's id, which its children write there."""
_PAGE = 1 << 16
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Process(NamedTuple):
    """One line of `/proc/PID/stat`; `start` (ticks since boot) tells it from a later one with its number.

    cpu_seconds: with what its children left when it waited for them; own_seconds: without.
    """

    pid: int
    state: str
    ppid: int
    group: int
    session: int
    cpu_seconds: float
    own_seconds: float
    threads: int
    start: int

    @property
    def lives(self) -> bool:
        """Whether it runs; one whose first thread has ended looks like a zombie while others go on."""
        return self.state not in "ZX" or self.threads > 1


def read(path: str) -> bytes:
    """What a file of the kernel's says, without the buffers that cost more than the look. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while part := os.read(descriptor, _PAGE):
            data += part
        return data
    finally:
        os.close(descriptor)


def look(pid: int) -> Process | None:
    """The process, or `None` when there is none with this number (any more)."""
    try:
        fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        own = int(fields[11]) + int(fields[12])
        inherited = int(fields[13]) + int(fields[14])
        state, ppid, group, session = fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3])
        seconds = (own + inherited) / TICKS, own / TICKS
        return Process(pid, state, ppid, group, session, *seconds, int(fields[17]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def everyone() -> dict[int, Process]:
    """Every process that can be seen, by number."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process}


def speaker(process: Process) -> int:
    """The number under which the kernel tells what a process holds: another thread's where its first has ended."""
    if process.state not in "ZX":
        return process.pid
    try:
        threads = {int(name) for name in os.listdir(f"/proc/{process.pid}/task")}
    except OSError:
        return process.pid
    return next(iter(threads - {process.pid}), process.pid)


def below(roots: Iterable[int], table: dict[int, Process]) -> set[int]:
    """The roots that are in the table and all of their descendants."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.ppid, []).append(process.pid)
    found: set[int] = set()
    waiting = [root for root in roots if root in table]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def children_of_this_process() -> list[int]:
    """Children of the calling, single-threaded process; cheap where the kernel keeps a list."""
    me = os.getpid()
    try:
        return [int(pid) for pid in read(f"/proc/{me}/task/{me}/children").split()]
    except OSError:
        return [process.pid for process in everyone().values() if process.ppid == me]


def first_inside(sandbox: int) -> int | None:
    """The process that bubblewrap (this process) was started for: its namespace's second, below the first."""
    table = everyone()
    return next((pid for pid in below([sandbox], table) if table[pid].ppid != sandbox and _inner(pid) == 2), None)


def _inner(pid: int) -> int:
    """A process's number in its own namespace."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next((int(line.split()[-1]) for line in file if line.startswith(b"NSpid:")), 0)
    except (OSError, ValueError):
        return 0


def job_of(pid: int) -> str:
    """The job that a process was started for, by its environment at start; "" when it doesn't say."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return ""
    prefix = f"{JOB_VARIABLE}=".encode()
    return next((os.fsdecode(v[len(prefix) :]) for v in variables if v.startswith(prefix)), "")


def of_job(job: str) -> list[int]:
    """Every living process whose environment says that it belongs to the job; zombies don't count."""
    found = (speaker(process) for process in everyone().values() if process.lives)
    return [pid for pid in found if job_of(pid) == job]


def send(pids: Iterable[int], number: int) -> int:
    """Signal the processes' whole groups, so that no fork slips through; how many processes were there.

    A group never reaches beyond its session, and a job's leader begins a session of its own.
    """
    groups, count = set(), 0
    for pid in pids:
        try:
            groups.add(os.getpgid(pid))
            count += 1
        except ProcessLookupError:
            continue
    for group in groups - {os.getpgrp(), 0}:
        try:
            os.killpg(group, number)
            if number == signal.SIGTERM:
                os.killpg(group, signal.SIGCONT)
        except (ProcessLookupError, PermissionError):
            continue
    return count


def count_threads(pids: Iterable[int]) -> int:
    """How many threads the processes have altogether, which is what the kernel's own limits count."""
    return sum(process.threads for process in map(look, pids) if process)


def memory_bytes(pids: Iterable[int]) -> int:
    """Resident memory, summed over processes; what they share counts each time."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                total += int(file.read().split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return total * os.sysconf("SC_PAGE_SIZE")


def proportional_bytes(pids: Iterable[int], *, only_shmem: bool = False) -> int:
    """Resident memory where shared pages count once; milliseconds for large processes.

    only_shmem: of memory that is no file's and can be shared.
    """
    field = b"Pss_Shmem:" if only_shmem else b"Pss:"
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith(field))
        except (OSError, IndexError, ValueError):
            total += 0 if only_shmem else memory_bytes([pid]) >> 10
    return total << 10

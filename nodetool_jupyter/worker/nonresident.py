"""Memory that a job's processes hold beside their resident memory, where no control group counts it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

_PIPE_BYTES_PER_DESCRIPTOR = 4096  # two pages for the two ends, once a user has many pipes
_USUAL_SOCKET_BYTES = 212_992


def of_processes(pids: Iterable[int]) -> int:
    """Bytes that are swapped out, in page tables, or that may be in pipes."""
    total = 0
    for pid in pids:
        found = dict.fromkeys((b"VmSwap", b"VmPTE", b"FDSize"), 0)
        for name, _, rest in (line.partition(b":") for line in _lines(f"/proc/{pid}/status")):
            if name in found:
                found[name] = int(rest.split()[0])
        total += ((found[b"VmSwap"] + found[b"VmPTE"]) << 10) + found[b"FDSize"] * _PIPE_BYTES_PER_DESCRIPTOR
    return total


def in_sockets(pid: int) -> int:
    """The most bytes that can be in the sockets of a process's network namespace, in buffers of the usual size."""
    sockets = 0
    for line in _lines(f"/proc/{pid}/net/sockstat"):
        if line.startswith(b"sockets: used"):
            sockets = int(line.split()[2])
    each = sum(_number(f"/proc/sys/net/core/{name}_default", _USUAL_SOCKET_BYTES) for name in ("rmem", "wmem"))
    queued = 0
    for name in ("tcp", "tcp6"):
        for line in _lines(f"/proc/{pid}/net/{name}")[1:]:
            sent, _, received = line.split()[4].partition(b":")
            queued += int(sent, 16) + int(received, 16)
    return sockets * each + 2 * queued


def shared(pids: Iterable[int], ever: Collection[int]) -> int:
    """Bytes in memory files (`memfd_create`) that these processes have open, and in System V's segments.

    ever: every process that the job had, by whom its segments were made. What is mapped is resident, too.
    """
    files: dict[tuple[int, int], int] = {}
    for pid in pids:
        for path in _descriptors(pid):
            try:
                if os.readlink(path).startswith("/memfd:"):
                    found = os.stat(path)
                    files[found.st_dev, found.st_ino] = found.st_blocks * 512
            except OSError:  # this one was closed meanwhile; the others count
                continue
    segments = [line.split() for line in _lines("/proc/sysvipc/shm")[1:]]
    return sum(files.values()) + sum(int(fields[-2]) + int(fields[-1]) for fields in segments if int(fields[4]) in ever)


def _descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder)]
    except OSError:
        return []


def _lines(path: str) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _number(path: str, usual: int) -> int:
    lines = _lines(path)
    return int(lines[0]) if lines else usual

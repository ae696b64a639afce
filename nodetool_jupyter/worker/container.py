"""The first process of a container: owns its stdin and stdout, starts the worker, stands between the two.

It does what an init does, reaping what nobody else waits for, and can't be looked into by the job, whose user it
has: no other process of the container is left out of the filter on system calls.

What goes over the container's streams is cut into parts, so that the worker's frames and what its code prints
never share a descriptor and never mix:

    | kind, u8 | length, u32 | bytes |

The parent grants how much may be on its way to it; nothing more is read from the job until it has taken some. So its
end of the stream never has to wait, which belongs to the engine and with that to every container: an engine that can't
get rid of what a container has said answers nobody once somebody ends that container. A grant is therefore no larger
than what a socket holds by itself, also while its reader, a kernel that was stopped for one, takes nothing at all.

Every container pays for what is imported here before its job begins: the C modules do without the `re`, `enum` and
`collections` that theirs in Python are made with.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # its stub is that of `signal`
import errno
import gc
import math
import os
import select
import struct
import sys
import time
from _socket import socketpair

from . import HELD_SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

PART = struct.Struct("!BI")
CHANNEL, STDOUT, STDERR, NOTE, GRANT = range(5)
WINDOW_BYTES = 96 << 10
PART_BYTES = 1 << 10
"""What a part counts beside its bytes, for what a socket needs to hold a short one."""
_FIRST_FREE = 64
_CHUNK = 64 << 10
_MOST_WAITING = 1 << 20
_DRAIN_SECONDS = 1.0
_NUDGE_SECONDS = 0.05
_ORPHAN_SECONDS = 1.0
_PR_SET_DUMPABLE = 4
_FIRST_NAMESPACE = "pid:[4026531836]"  # the kernel's own number for the one that a machine starts with
_SIGNALS = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_READ, _WRITE = select.POLLIN, select.POLLOUT


def main(profile: str) -> None:
    """Fork the worker and pump until it has ended; never returns. Does nothing outside of a container."""
    if not in_container():
        sys.exit("it is not in a container of its own, and would signal every process of this machine")
    _preload(profile)
    if profile == "untrusted":
        from . import seccomp

        seccomp.load()
    channel, theirs = socketpair()
    pipes = [os.pipe(), os.pipe()]
    for number in _SIGNALS:  # held until each of the two is ready for them
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    gc.freeze()  # or its first collection copies all that the two share
    child = os.fork()
    if child == 0:
        _become_worker(theirs, [write for _, write in pipes])
    _prctl()(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # the job's code, of the same user, must not look in here
    theirs.close()
    for _, write in pipes:
        os.close(write)
    Pump(child, channel, [read for read, _ in pipes]).run()


def _prctl() -> Callable[..., int]:
    """The C library's, as `ctypes` has it."""
    import _ctypes

    made: Any = _ctypes
    number = type("number", (made._SimpleCData,), {"_type_": "i"})
    kind = {"_flags_": made.FUNCFLAG_CDECL, "_restype_": number}
    function: Any = type("function", (made.CFuncPtr,), kind)
    found: Callable[..., int] = function(made.dlsym(made.dlopen(None, 0), "prctl"))
    return found


def _preload(profile: str) -> None:
    """Import what every worker needs, and what one may need when its code has left it no way to do so."""
    from . import channel, process, warm_up  # noqa: F401

    process.note_files()
    if profile == "trusted":  # only then pickles come out, after the job's code
        from . import pickled  # noqa: F401
        from .execute import attempt

        attempt(__import__, "cloudpickle")


def _become_worker(channel: socket, pipes: list[int]) -> NoReturn:
    os.setsid()
    high = [os.open(os.devnull, os.O_RDWR), *pipes, channel.detach()]
    high = [os.dup2(descriptor, 32 + n, inheritable=False) for n, descriptor in enumerate(high)]
    for target, descriptor in enumerate(high):
        os.dup2(descriptor, target, inheritable=target < 3)
    os.closerange(4, _FIRST_FREE)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, HELD_SIGNALS)
    sys.argv = [""]
    asked = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *asked, *sys.path]  # as an interpreter has it
    from .main import main as work
    from .warm_up import use_the_wait

    work(3, meanwhile=use_the_wait)
    raise AssertionError("a worker ends with its process")


class Pump:
    """Moves bytes between the container's streams and the worker until that has ended, then ends the container."""

    def __init__(self, child: int, channel: socket, pipes: list[int]) -> None:
        self._child = child
        self._channel = channel
        self._kinds = {channel.fileno(): CHANNEL, pipes[0]: STDOUT, pipes[1]: STDERR}
        self._open = set(self._kinds)
        self._granted = WINDOW_BYTES
        self._incoming = bytearray()
        self._to_worker = bytearray()
        self._status: int | None = None
        self._until = self._nudge_at = self._kill_at = float("inf")
        self._told: list[list[Any]] = []
        self._poll = select.poll()
        channel.setblocking(False)
        os.set_blocking(0, False)
        self._wakers = socketpair()
        for waker in self._wakers:
            waker.setblocking(False)
        self._poll.register(self._wakers[0], _READ)
        self._armed: dict[int, int] = {}
        self._listens = True
        self._has_work = False

    def run(self) -> None:
        """Pump; ends the process."""
        signal.set_wakeup_fd(self._wakers[1].fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _SIGNALS:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while not self._over():
            self._arm()
            now = time.monotonic()
            due = min(self._until, self._nudge_at, self._kill_at)
            wait = None if due == float("inf") else max(0, math.ceil(1000 * (due - now)))
            for descriptor, events in self._poll.poll(wait):
                self._serve(descriptor, events)
            self._tick(time.monotonic())
        self._end()

    def _over(self) -> bool:
        return self._status is not None and (not self._open or (self._granted > 0 and time.monotonic() >= self._until))

    def _arm(self) -> None:
        """Listen to the job as long as there is room for what it says, and to the parent likewise."""
        wanted = dict.fromkeys(self._open if self._granted > 0 else (), _READ)
        if self._listens and len(self._to_worker) < _MOST_WAITING:
            wanted[0] = _READ
        if self._to_worker:
            channel = self._channel.fileno()
            wanted[channel] = wanted.get(channel, 0) | _WRITE
        for descriptor in self._armed.keys() - wanted.keys():
            self._poll.unregister(descriptor)
        for descriptor, events in wanted.items() - self._armed.items():
            self._poll.register(descriptor, events)
        self._armed = wanted

    def _serve(self, descriptor: int, events: int) -> None:
        if descriptor == 0:
            self._hear()
        elif descriptor == self._wakers[0].fileno():
            self._wakers[0].recv(4096)
        else:
            if events & ~_READ:
                self._feed()
            if events & ~_WRITE:
                self._take(descriptor)

    def _take(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, min(_CHUNK, max(1, self._granted - PART_BYTES)))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._open.discard(descriptor)
            return
        self._granted -= len(data) + PART_BYTES
        if self._status is not None:
            self._until = time.monotonic() + _DRAIN_SECONDS
        _say(self._kinds[descriptor], data)

    def _hear(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._orphaned()
            return
        self._incoming += data
        while len(self._incoming) >= PART.size:
            kind, size = PART.unpack_from(self._incoming)
            if len(self._incoming) < PART.size + size:
                return
            part = bytes(self._incoming[PART.size : PART.size + size])
            del self._incoming[: PART.size + size]
            if kind == GRANT:
                self._granted += int.from_bytes(part, "big")
            elif kind == CHANNEL:
                self._has_work = True
                self._to_worker += part
                self._feed()

    def _feed(self) -> None:
        try:
            while self._to_worker:
                del self._to_worker[: self._channel.send(self._to_worker[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            self._to_worker.clear()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Give a signal to every process of the container but this one."""
        self._told.append([_SIGNALS[number], len(_others())])
        idle = number == signal.SIGTERM and not self._has_work  # a worker takes no signal before it has a job
        _signal_all(signal.SIGKILL if idle else number)
        self._nudge_at = time.monotonic() + _NUDGE_SECONDS

    def _tick(self, now: float) -> None:
        if now >= self._nudge_at:  # ends the system call of code that just missed its signal
            self._nudge_at = float("inf")
            _signal_all(signal.SIGURG)
        if now >= self._kill_at:
            self._kill_at = float("inf")
            _signal_all(signal.SIGKILL)
        while self._status is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._child:
                self._status = os.waitstatus_to_exitcode(status)
                self._until = now + _DRAIN_SECONDS

    def _orphaned(self) -> None:
        """Nobody listens any more: end the job now, and whatever does not end in a second."""
        self._listens = False
        _signal_all(signal.SIGTERM)
        self._kill_at = time.monotonic() + _ORPHAN_SECONDS
        self._granted = sys.maxsize
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def _end(self) -> None:
        left = len(_others())
        _signal_all(signal.SIGKILL)
        from .wire import dumps

        note = {"status": self._status, "left": left, "told": self._told, **_used()}
        _say(NOTE, dumps(note).encode())
        os._exit(0 if self._status == 0 else 1)


def _say(kind: int, data: bytes) -> None:
    view = memoryview(PART.pack(kind, len(data)) + data)
    try:
        while view:
            view = view[os.write(1, view) :]
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise


def _others() -> list[int]:
    """Every process of the container but this one."""
    try:
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != os.getpid()]
    except OSError:
        return []


def in_container() -> bool:
    """Whether every process that can be seen from here is the job's: this one is the first, and no machine's own."""
    return os.getpid() == 1 and os.readlink("/proc/self/ns/pid") != _FIRST_NAMESPACE


def _signal_all(number: int) -> None:
    if not in_container():  # all processes would be this machine's
        return
    try:
        os.kill(-1, number)
    except OSError:
        return  # nobody is there


_MEASURES = {
    "peak_memory_bytes": ("memory/memory.max_usage_in_bytes", "memory.peak"),
    "refused_forks": ("pids/pids.events", "pids.events"),
    "cpu_nanoseconds": ("cpuacct/cpuacct.usage",),
}


def _used() -> dict[str, int]:
    """What the container used in all, as far as it can see that itself."""
    found: dict[str, int] = {}
    for name, files in _MEASURES.items():
        for name_of_file in files:
            try:
                with open(f"/sys/fs/cgroup/{name_of_file}") as file:
                    found[name] = int(file.read().split()[-1])
                break
            except (OSError, ValueError, IndexError):
                continue
    return found

"""A warm parent: has imported what jobs need, and forks children that wait, each for one job.

Single-threaded. Its children are the supervisor's: each is forked twice, so that it is re-parented
to the reaper. They share its hash seed and nothing else that could be guessed.

    to it      {sys_path modules more}, then {more}: a number for each child, and the groups that it joins
    from it    {pid number joined} + the socket on which the waiting child takes its order, and answers `TAKEN`
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from . import HELD_SIGNALS, cgroups, start
from .control import PREFIX
from .execute import attempt_all
from .tree import JOB_VARIABLE, NO_JOB
from .warm_up import touch

TAKEN = b"+"
OWN = ("process", "display", "execute", "tracebacks", "values", "transfer", "pickled", "channel", "progress", "logs")
ALWAYS = ("cloudpickle", "linecache", "traceback", "IPython.core.interactiveshell", "IPython.display")
_PROBE_SECONDS = 60
_ADOPTED_SECONDS = 0.0005
_getenv = ctypes.CDLL(None).getenv
_getenv.restype = ctypes.c_void_p


def serve(channel: int) -> None:
    """Take one order to get warm, then keep children waiting until the other end is closed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    control = socket.socket(fileno=channel)
    order = _receive(control)
    if order is None:
        return
    _get_warm(order["sys_path"], order["modules"])
    while order is not None:
        for number, groups in order["more"]:
            _fork_idle(control, number, groups)
        order = _receive(control)


def _get_warm(sys_path: Sequence[str], modules: Sequence[str]) -> None:
    import site

    site.main()
    sys.path[:] = sys_path
    for name in OWN:
        import_module(f"{__package__}.{name}")
    from .process import note_files, prepare

    for name in _importable([*ALWAYS, *(name for name in modules if _is_installed(name))]):
        import_module(name)
    prepare()
    compile("1", "<warm>", "exec")
    gc.collect()
    note_files()
    gc.freeze()
    gc.disable()


def _is_installed(name: str) -> bool:
    """Whether this comes with the interpreter or lies in site-packages; not from a folder that people edit."""
    try:
        spec = find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    library = os.path.dirname(os.__file__) + os.sep
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any(
        place in {"built-in", "frozen"} or f"{os.sep}site-packages{os.sep}" in place or place.startswith(library)
        for place in places
    )


def _importable(names: Sequence[str]) -> list[str]:
    """Those that a child of this process could import without a failure and without starting a thread."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _probe(names, write_end)
    os.close(write_end)
    with open(read_end) as answers:
        good = answers.read().split()
    os.waitpid(pid, 0)
    return good


def _probe(names: Sequence[str], answers: int) -> None:
    import threading

    signal.alarm(_PROBE_SECONDS)
    try:
        for name in names:
            try:
                import_module(name)
            except ImportError:
                continue
            if threading.active_count() > 1:
                break
            os.write(answers, f"{name} ".encode())
    finally:  # whatever a module does when it is imported, this copy must never go on
        os._exit(0)


def _fork_idle(control: socket.socket, number: int, groups: Sequence[str]) -> None:
    """Have a child that offers itself; raises `OSError` when there can't be one."""
    between = os.fork()
    if between == 0:
        me = os.getpid()
        try:
            if os.fork() == 0:
                _wait_for_order(_offer(control, number, groups, between=me))
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(between, 0)[1]:
        raise ChildProcessError("no child could be forked")


def _offer(control: socket.socket, number: int, groups: Sequence[str], *, between: int) -> socket.socket:
    """Join the groups, which keeps the kernel busy for milliseconds, and tell the supervisor where orders are taken."""
    orders, theirs = socket.socketpair()
    try:
        cgroups.join(groups, os.getpid())
        joined = True
    except OSError:
        joined = False
    while os.getppid() == between:  # which is just ending: who gets a job before then takes itself for an orphan
        time.sleep(_ADOPTED_SECONDS)
    data = json.dumps({"pid": os.getpid(), "number": number, "joined": joined}).encode()
    with control, theirs:
        socket.send_fds(control, [PREFIX.pack(len(data)) + data], [theirs.fileno()])
    return orders


def _wait_for_order(orders: socket.socket) -> None:
    """Wait; become the job's process; run it. Never returns."""
    from .main import main
    from .process import rehearse

    descriptors: list[int] = []
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        touch()
        attempt_all(rehearse)
        order = _receive(orders, descriptors)
        if order is None or len(descriptors) != 3:
            os._exit(0)
        orders.send(TAKEN)
        start.become(order, descriptors, orders.detach(), parent=order["parent"], execute=False)
        _tell_whose_it_is(order["env"][JOB_VARIABLE])
        _renew(order["env"])
        main(3)
    finally:
        os._exit(1)


def _tell_whose_it_is(job: str) -> None:
    """Write the job's id where `/proc` shows it for this process and those it forks, as for one that was executed."""
    place, name = _getenv(JOB_VARIABLE.encode()), os.fsencode(job)
    if place and len(name) <= len(NO_JOB):
        ctypes.memmove(place, name.ljust(len(NO_JOB), b"\0"), len(NO_JOB))


def _renew(environ: dict[str, str]) -> None:
    del sys.argv[1:]
    now = dict(os.environ)
    for name in now.keys() - environ.keys():
        del os.environ[name]
    os.environ.update(environ.items() - now.items())
    gc.enable()
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _receive(end: socket.socket, descriptors: list[int] | None = None) -> dict[str, Any] | None:
    """The next message, with the descriptors that come with it; `None` when the other end is closed."""
    data = b""
    size = PREFIX.size
    while len(data) < size:
        part, found, _, _ = socket.recv_fds(end, size - len(data), 16)
        if descriptors is not None:
            descriptors += found
        if not part:
            return None
        data += part
        if len(data) == PREFIX.size == size:
            size += PREFIX.unpack(data)[0]
    message: dict[str, Any] = json.loads(data[PREFIX.size :])
    return message

"""The sandbox's limit of memory where no control group holds it: there is no memory that nobody counts."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

import pytest

from nodetool_jupyter.jobs import Profile, ResourceLimits
from tests.runners.conftest import checked_place
from tests.runners.processes import Outcome, Place

REFUSED = """
import ctypes, errno, fcntl, mmap, os, socket
X86 = os.uname().machine == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
table = {}

def attempt(name, function, *arguments):
    try:
        function(*arguments)
        table[name] = "allowed"
    except OSError as error:
        table[name] = errno.errorcode[error.errno]

def call(x86, arm, *arguments):
    if libc.syscall(x86 if X86 else arm, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "")

attempt("memfd_create", os.memfd_create, "x")
attempt("memfd_secret", call, 447, 447, 0)
attempt("shmget", call, 29, 194, 0, 4096, 0o1600)
attempt("semget", call, 64, 190, 0, 1, 0o1600)
attempt("msgget", call, 68, 186, 0, 0o1600)
attempt("mq_open", call, 240, 180, b"x", os.O_CREAT | os.O_RDWR, 0o600, None)
attempt("vmsplice", call, 278, 75, 1, None, 0, 0)
attempt("shared and no file's", mmap.mmap, -1, 4096)
attempt("private", mmap.mmap, -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
zero = os.open("/dev/zero", os.O_RDWR)
attempt("shared zeros", mmap.mmap, zero, 4096)
table["zeros"] = os.read(zero, 3).hex()
attempt("larger pipe", fcntl.fcntl, os.pipe()[0], 1031, 1 << 20)
end = socket.socket()
for name in ("SO_SNDBUF", "SO_RCVBUF"):
    attempt(name, end.setsockopt, socket.SOL_SOCKET, getattr(socket, name), 1 << 20)
attempt("SO_ZEROCOPY", end.setsockopt, socket.SOL_SOCKET, 60, 1)
attempt("SO_REUSEADDR", end.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
attempt("TCP_NODELAY", end.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""
HOLDERS = {
    "sockets": """
        import os, socket, time
        held = []
        for _ in range(8):
            if os.fork() == 0:
                while len(held) < 400:
                    held.append(socket.socketpair())
                    for end in held[-1]:
                        end.setblocking(False)
                        try:
                            while True:
                                end.send(bytes(1 << 16))
                        except BlockingIOError:
                            pass
                break
        while True:
            time.sleep(1000)
        """,
    "page tables": """
        import ctypes, mmap, time
        libc = ctypes.CDLL(None)
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.mmap.restype = ctypes.c_void_p
        size = 1 << 40
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        for offset in range(0, size, 1 << 21):
            ctypes.string_at(at + offset, 1)
        time.sleep(1000)
        """,
    "a process whose first thread has ended": """
        import ctypes, os, threading, time
        def hold():
            kept = bytearray(b"x") * (128 << 20)
            time.sleep(1000)
        for _ in range(2):
            if os.fork() == 0:
                threading.Thread(target=hold).start()
                ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
        time.sleep(1000)
        """,
}
CROWD = """
import threading, time
threading.stack_size(1 << 15)
for _ in range(100):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
time.sleep(1000)
"""


@pytest.fixture
def plain() -> Iterator[Place]:
    """Jobs without control groups."""
    yield from checked_place(grouped=False)


def run(place: Place, code: str, **fields: object) -> Outcome:
    return place.run(textwrap.dedent(code), profile=Profile.UNTRUSTED, **fields)  # type: ignore[arg-type]


def test_calls_for_memory_that_is_nobody_s_are_refused(plain: Place, way: str) -> None:
    found = run(plain, REFUSED, outputs=("table",))
    allowed = ("private", "SO_REUSEADDR", "TCP_NODELAY")
    calls = ("memfd_create", "memfd_secret", "shmget", "semget", "msgget", "mq_open", "vmsplice")
    buffers = ("larger pipe", "SO_SNDBUF", "SO_RCVBUF", "SO_ZEROCOPY")
    assert json.loads(bytes(found.value("table").body)) == {  # type: ignore[attr-defined]
        **dict.fromkeys((*calls, *buffers, "shared and no file's"), "EPERM"),
        **dict.fromkeys(allowed, "allowed"),
        "shared zeros": "ENODEV",
        "zeros": "000000",
    }
    assert "no call for memory that they don't see" in found.isolation.held["memory_bytes"]


@pytest.mark.parametrize("what", HOLDERS)
def test_what_is_held_beside_resident_memory_counts(plain: Place, way: str, what: str) -> None:
    found = run(plain, HOLDERS[what], limits=ResourceLimits(memory_bytes=192 << 20))
    assert (found.exit.cause, found.exit.limit, found.exit.signal) == ("out_of_memory", "memory_bytes", "SIGKILL")


def test_threads_count_as_they_do_in_a_group(plain: Place) -> None:
    found = run(plain, CROWD).exit
    assert (found.cause, found.limit, found.signal) == ("limit", "pids", "SIGKILL")
    assert found.detail == "The profile's limit is 64 processes and threads."


def test_processes_still_share_what_has_a_size(plain: Place, way: str) -> None:
    code = """
    import multiprocessing as mp
    from multiprocessing import shared_memory
    def fill(name, numbers, queue):
        block = shared_memory.SharedMemory(name)
        block.buf[0] = 7
        numbers[1] = 2.5
        queue.put("done")
        block.close()
    context = mp.get_context("fork")
    block = shared_memory.SharedMemory(create=True, size=4096)
    numbers, queue = context.Array("d", 2), context.Queue()
    child = context.Process(target=fill, args=(block.name, numbers, queue))
    child.start()
    said = queue.get()
    child.join()
    found = [said, block.buf[0], list(numbers)]
    block.unlink()
    """
    found = run(plain, code, outputs=("found",))
    assert json.loads(bytes(found.value("found").body)) == ["done", 7, [0.0, 2.5]]  # type: ignore[attr-defined]

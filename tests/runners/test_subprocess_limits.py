"""What happens to a job that reaches a limit: the kernel or the watch holds it, and the end says so."""

from __future__ import annotations

import ctypes
import textwrap

import pytest

from nodetool_jupyter.events import Stream
from nodetool_jupyter.frames import Raised, Report, Returned
from nodetool_jupyter.jobs import ResourceLimits
from nodetool_jupyter.runners.base import Worker
from tests.runners.processes import Place

_IPC_RMID = 0


def test_memory_beyond_the_limit_ends_the_job_with_evidence(grouped: Place) -> None:
    found = grouped.run("x = bytearray(400 << 20)", limits=ResourceLimits(memory_bytes=96 << 20))
    assert (found.exit.cause, found.exit.limit, found.exit.signal) == ("out_of_memory", "memory_bytes", "SIGKILL")
    assert "peak" in found.exit.detail
    assert found.isolation.held["memory_bytes"].startswith("cgroup")


def test_the_peak_that_is_told_counts_every_process(grouped: Place) -> None:
    code = """
    import os, signal, time
    def greedy():
        pid = os.fork()
        if not pid:
            x = b"x" * (40 << 20)
            time.sleep(1000)
        return pid
    pids = [greedy() for _ in range(4)]
    pids.remove(os.wait()[0])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    """
    found = grouped.run(textwrap.dedent(code), limits=ResourceLimits(memory_bytes=96 << 20))
    assert found.exit.cause == "out_of_memory"
    assert found.usage.peak_memory_bytes > 80 << 20


def test_a_child_killed_for_memory_is_known_though_the_leader_goes_on(grouped: Place) -> None:
    code = "import os\nif os.fork() == 0:\n    x = bytearray(400 << 20)\n    os._exit(0)\nprint(os.wait()[1])"
    found = grouped.run(code, limits=ResourceLimits(memory_bytes=96 << 20))
    assert isinstance(found.terminal, Returned)
    assert (found.exit.cause, found.exit.code) == ("out_of_memory", 0)


def test_without_groups_one_process_gets_a_memory_error(plain: Place) -> None:
    found = plain.run("x = bytearray(400 << 20)", limits=ResourceLimits(memory_bytes=128 << 20))
    assert isinstance(found.terminal, Raised)
    assert found.terminal.ename == "MemoryError"


def test_without_groups_the_watch_ends_a_tree_that_uses_too_much(plain: Place) -> None:
    code = """
    import os, time
    for _ in range(3):
        if os.fork() == 0:
            x = b"x" * (80 << 20)
            time.sleep(1000)
    time.sleep(1000)
    """
    found = plain.run(textwrap.dedent(code), limits=ResourceLimits(memory_bytes=160 << 20))
    assert (found.exit.cause, found.exit.limit, found.exit.signal) == ("out_of_memory", "memory_bytes", "SIGKILL")
    assert "watch" in found.isolation.held["memory_bytes"]


@pytest.mark.parametrize("how", ["memory files", "segments"])
def test_without_groups_the_watch_counts_shared_memory_that_nobody_maps(plain: Place, how: str) -> None:
    code = """
    import ctypes, os, time
    libc = ctypes.CDLL(None)
    libc.shmat.restype, libc.shmdt.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    def memory_file(size):
        file = os.memfd_create("x")
        for _ in range(size >> 20):
            os.write(file, bytes(1 << 20))
    def segment(size):
        number = libc.shmget(0, size, 0o1600)
        at = libc.shmat(number, None, 0)
        ctypes.memset(at, 1, size)
        print(number, flush=True)
        libc.shmdt(at)
    """
    code = textwrap.dedent(code) + f"{'segment' if how == 'segments' else 'memory_file'}(200 << 20)\ntime.sleep(1000)"
    found = plain.run(code, limits=ResourceLimits(memory_bytes=160 << 20))
    for number in found.text().split():
        assert ctypes.CDLL(None).shmctl(int(number), _IPC_RMID, None) == 0
    assert (found.exit.cause, found.exit.limit, found.exit.signal) == ("out_of_memory", "memory_bytes", "SIGKILL")
    assert "without what the kernel buffers" in found.isolation.held["memory_bytes"]


def test_shared_memory_that_is_mapped_counts_once(plain: Place) -> None:
    code = """
    import mmap, os, time
    file = os.memfd_create("x")
    os.ftruncate(file, 100 << 20)
    mapped = mmap.mmap(file, 100 << 20)
    for at in range(0, len(mapped), 4096):
        mapped[at] = 1
    begun = time.process_time()
    while time.process_time() < begun + 1:
        pass
    """
    found = plain.run(textwrap.dedent(code), limits=ResourceLimits(memory_bytes=190 << 20))
    assert isinstance(found.terminal, Returned), found.exit


FORK_BOMB = """
import os
told = 0
while True:
    try:
        os.fork()
    except OSError:
        told = told or os.write(1, b"refused\\n")
"""


def test_a_fork_bomb_stays_within_its_limit_and_is_stopped(grouped: Place) -> None:
    most, refused = 0, False

    def stop(worker: Worker, report: Report) -> None:
        nonlocal most, refused
        most = max(most, getattr(report, "processes", 0))
        refused = refused or (isinstance(report, Stream) and report.name == "stdout")
        if most > 40 and refused:
            worker.stop(0.0)

    found = grouped.run(FORK_BOMB, on_report=stop, limits=ResourceLimits(pids=64))
    assert 40 < most <= 64
    assert "--pids-limit" in found.exit.detail


def test_without_groups_the_watch_ends_a_fork_bomb(plain: Place) -> None:
    code = "import os, time\nfor _ in range(400):\n    if os.fork() == 0:\n        time.sleep(1000)\ntime.sleep(1000)"
    found = plain.run(code, limits=ResourceLimits(pids=50))
    assert (found.exit.cause, found.exit.limit) == ("limit", "pids")


@pytest.mark.parametrize("forks", [0, 3])
def test_processor_time_is_limited_over_the_whole_tree(place: Place, forks: int) -> None:
    code = f"import os\nfor _ in range({forks}):\n    if os.fork() == 0:\n        break\nwhile True:\n    pass"
    found = place.run(code, limits=ResourceLimits(cpu_seconds=1))
    assert (found.exit.cause, found.exit.limit) == ("limit", "cpu_seconds")
    assert found.usage.cpu_seconds > 0.5  # the kernel counts a limit in ticks


def test_processor_time_of_children_that_nobody_waits_for_counts(plain: Place) -> None:
    code = """
    import os, signal, time
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        child = os.fork()
        while child == 0 and time.process_time() < 0.8:
            pass
        if child == 0:
            os._exit(0)
        try:
            os.wait()
        except ChildProcessError:
            pass
    """
    found = plain.run(textwrap.dedent(code), limits=ResourceLimits(cpu_seconds=1))
    assert (found.exit.cause, found.exit.limit) == ("limit", "cpu_seconds")


def test_a_file_that_grows_too_large_is_refused(place: Place) -> None:
    code = "import os\nwith open(os.environ['TMPDIR'] + '/big', 'wb') as f:\n    f.write(bytes(1 << 20))"
    found = place.run(code, limits=ResourceLimits(file_size_bytes=1 << 16))
    assert isinstance(found.terminal, Raised)
    assert "File too large" in found.terminal.evalue


def test_too_many_open_files_are_refused(place: Place) -> None:
    found = place.run("x = [open('/dev/null') for _ in range(100)]", limits=ResourceLimits(open_files=40))
    assert isinstance(found.terminal, Raised)
    assert "Too many open files" in found.terminal.evalue

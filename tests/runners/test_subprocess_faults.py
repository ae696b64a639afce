"""What a job's process may do wrong, and what becomes of it. Every test also proves that nothing is left."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
import textwrap
from uuid import uuid4

import anyio
import anyio.lowlevel
import psutil
import pytest

from nodetool_jupyter.errors import ProtocolError
from nodetool_jupyter.events import Exit, Stream
from nodetool_jupyter.frames import Raised, Report, Returned
from nodetool_jupyter.jobs import CodeWork, JobRequest
from nodetool_jupyter.runners.base import Parcel, Worker
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from nodetool_jupyter.worker import wire
from tests.runners.processes import Outcome, Place, once_printed, stop_at

DAEMON = """
import os, time
def daemonise(seconds, *, clean=False):
    there, not_yet = os.pipe()
    if os.fork():
        os.close(not_yet)
        os.read(there, 1)  # until the daemon is what it is to be, and the one between is gone
        os.close(there)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(there)
    if clean:
        os.execve("/bin/sleep", ["sleep", str(seconds)], {})
    os.close(not_yet)
    time.sleep(seconds)
    os._exit(0)
"""

HEADLESS = """
import ctypes, threading
pid = os.fork()
if pid == 0:
    os.setsid()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.001)
"""
"""Leaves a process whose first thread has ended, and which lives on in another."""


SEND_RAW = """
import os, time
def frame(header):
    return len(header).to_bytes(4, "big") + bytes(4) + header
def channel():
    [found] = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_socket(fd)]
    return found
def send(data):
    while data:
        data = data[os.write(channel(), data):]
def is_socket(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False
"""


def test_frames_on_stdout_are_only_text(place: Place) -> None:
    frame = b"".join(bytes(part) for part in wire.encode({"type": "returned"}))
    found = place.run(f"import os\nos.write(1, {frame!r})\nraise ValueError('real')")
    assert isinstance(found.terminal, Raised)
    assert found.terminal.ename == "ValueError"
    assert '"returned"' in found.text()


def test_a_job_has_its_channel_and_nothing_else_open(place: Place) -> None:
    code = """
    import os
    def target(name):
        try:
            return os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
        except FileNotFoundError:
            return ""
    print(*filter(None, map(target, sorted(os.listdir("/proc/self/fd"), key=int))), flush=True)
    os.system("ls /proc/self/fd | wc -l")
    """

    async def work(runner: SubprocessRunner) -> list[Outcome]:
        found: list[Outcome] = []

        async def one() -> None:
            found.append(await place.drive(runner, textwrap.dedent(code)))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one)
        return found

    for found in place.session(work):
        # the second /dev/null keeps room for a traceback's modules, high up where nobody closes it by its number
        assert sorted(found.text().split()) == ["/dev/null", "/dev/null", "4", "pipe", "pipe", "socket"]


@pytest.mark.parametrize("which", ["0", "1", "2", "range(3)", "range(3, 256)", "range(256)"])
def test_a_job_may_close_descriptors_and_still_ends(place: Place, which: str) -> None:
    code = f"""
    import os
    for fd in ([{which}] if isinstance({which}, int) else {which}):
        try:
            os.close(fd)
        except OSError:
            pass
    os._exit(3)
    """
    found = place.run(textwrap.dedent(code))
    assert found.terminal is None
    assert (found.exit.cause, found.exit.code) == ("", 3)


def test_reports_end_when_the_channel_is_closed_though_the_process_lives_on(place: Place) -> None:
    code = SEND_RAW + "import socket\nsocket.socket(fileno=channel()).shutdown(socket.SHUT_WR)\ntime.sleep(1000)"

    async def work(runner: SubprocessRunner) -> tuple[list[Report], Exit]:
        job = place.job(JobRequest(work=CodeWork(code)))
        async with runner.launch(job, Parcel(environ=os.environ)) as worker:
            reports = [report async for batch in worker.reports() for report in batch]
            worker.stop(0.2)
            return reports, await worker.wait()

    reports, ended = place.session(work)
    assert not any(isinstance(report, Returned | Raised) for report in reports)
    assert ended.sent[0].signal == "SIGINT"


def test_a_job_that_ignores_every_signal_is_killed_at_the_end_of_the_grace(place: Place) -> None:
    code = """
    import signal, time
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        time.sleep(1)
    """
    found = place.run(textwrap.dedent(code), on_report=stop_at("ready", 0.4))
    assert [step.signal for step in found.exit.sent] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert (found.exit.signal, found.exit.code, found.exit.processes_reaped) == ("SIGKILL", None, 1)
    _, terminated, killed = [step.after_seconds for step in found.exit.sent]
    assert terminated >= 0.2
    assert killed >= 0.4


def test_an_interrupt_is_enough_for_code_that_heeds_it(place: Place) -> None:
    code = "import time\nprint('ready', flush=True)\nwhile True:\n    time.sleep(0.01)"
    found = place.run(code, on_report=stop_at("ready", 30.0))
    assert [step.signal for step in found.exit.sent] == ["SIGINT"]
    assert isinstance(found.terminal, Raised)
    assert found.terminal.ename == "KeyboardInterrupt"


def test_daemons_are_killed_after_their_leader_ended(place: Place) -> None:
    code = DAEMON + "daemonise(1000)\ndaemonise(1000, clean=True)\n" + HEADLESS
    found = place.run(code)
    assert isinstance(found.terminal, Returned)
    assert (found.exit.cause, found.exit.code) == ("", 0)
    assert [(step.signal, step.processes) for step in found.exit.sent] == [("SIGKILL", 3)]
    assert found.exit.processes_reaped >= 4


@pytest.mark.parametrize("grace_seconds", [0.2, 5.0])
def test_what_all_of_a_job_used_is_reported_when_its_daemons_are_killed_too(place: Place, grace_seconds: float) -> None:
    found = place.run(DAEMON + "daemonise(1000)", grace_seconds=grace_seconds)
    assert isinstance(found.terminal, Returned)
    assert found.usage.processes == 0, "the last report of usage is that of the end"
    assert found.usage.peak_memory_bytes


def test_the_daemons_of_one_job_do_not_die_with_another(place: Place) -> None:
    async def work(runner: SubprocessRunner) -> list[Outcome]:
        found: list[Outcome] = []
        long = DAEMON + "daemonise(1000)\nprint('up', flush=True)\ntime.sleep(1000)"

        async def other(worker: Worker) -> None:
            found.append(await place.drive(runner, DAEMON + "daemonise(1000)"))
            found.append(await place.drive(runner, f"import psutil\nprint({len(place.jobs)})"))
            alive = [pid for pid in os.listdir("/proc") if pid.isdigit() and _belongs(int(pid), place.jobs[0])]
            assert len(alive) == 2
            worker.stop(0.0)

        async with anyio.create_task_group() as tasks:
            up = once_printed("up", lambda worker: tasks.start_soon(other, worker))
            found.append(await place.drive(runner, long, on_report=up))
        return found

    short, _, long = place.session(work)
    assert short.exit.code == 0
    assert long.exit.signal == "SIGKILL"
    assert long.exit.processes_reaped >= 2  # the one between counts too, where it was seen


def test_a_daemon_without_a_name_goes_with_the_last_job_that_may_have_made_it(place: Place) -> None:
    mark = f"1000.{uuid4().int % 10**9:09}"
    code = DAEMON + f"daemonise({mark}, clean=True)"

    async def work(runner: SubprocessRunner) -> None:
        async def short(worker: Worker) -> None:
            await place.drive(runner, code)
            worker.stop(0.0)

        async with anyio.create_task_group() as tasks:
            up = once_printed("up", lambda worker: tasks.start_soon(short, worker))
            await place.drive(runner, "import time\nprint('up', flush=True)\ntime.sleep(1000)", on_report=up)
        assert [each.pid for each in psutil.process_iter(["cmdline"]) if mark in (each.info["cmdline"] or ())] == []

    place.session(work)


@pytest.mark.parametrize(
    "code",
    [
        "import multiprocessing as m\nwith m.Manager() as manager:\n    print(manager.list([1]))",
        "import concurrent.futures as c\nwith c.ProcessPoolExecutor(2) as pool:\n    print(list(pool.map(abs, [-1])))",
        "import multiprocessing as m\nwith m.get_context('forkserver').Pool(1) as p:\n    print(p.map(abs, [-1]))",
        "import multiprocessing as m\nwith m.get_context('spawn').Pool(1) as p:\n    print(p.map(abs, [-1]))",
        "import subprocess\nprint(subprocess.check_output(['echo', '[1]'], text=True), end='')",
    ],
    ids=["manager", "pool", "forkserver", "spawn", "subprocess"],
)
def test_processes_that_a_job_needs_work_as_anywhere(place: Place, code: str) -> None:
    found = place.run(code)
    assert (found.text(), found.exit.code) == ("[1]\n", 0)


def _is_full(pipe: int) -> bool:
    [waiting] = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return bool(waiting == fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ))


def _belongs(pid: int, job: str) -> bool:
    from nodetool_jupyter.worker import tree

    process = tree.look(pid)
    return tree.job_of(pid) == job and process is not None and process.state != "Z"


def test_a_stop_reaches_the_whole_tree(place: Place) -> None:
    code = DAEMON + textwrap.dedent("""
        import signal, subprocess
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        subprocess.Popen(["sleep", "1000"])
        daemonise(1000)
        print("ready", flush=True)
        time.sleep(1000)
    """)
    found = place.run(code, on_report=stop_at("ready", 2.0))
    assert [step.signal for step in found.exit.sent][:2] == ["SIGINT", "SIGTERM"]
    assert found.exit.sent[1].processes == 3
    assert found.exit.processes_reaped >= 3  # the one between counts too, where it was seen


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
        ("import os\nos.abort()", "SIGABRT"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGBUS)", "SIGBUS"),
    ],
)
def test_a_crash_is_called_so_with_the_last_lines(place: Place, code: str, name: str) -> None:
    found = place.run(f"print('before')\n{code}")
    assert (found.exit.cause, found.exit.signal, found.exit.code) == ("crashed", name, None)
    assert "Fatal Python error" in found.exit.detail
    assert 'File "<cell>"' in found.exit.detail
    assert "before" in found.text()


def test_exit_code_0_without_a_result_is_told_as_it_is(place: Place) -> None:
    found = place.run("import os\nos._exit(0)")
    assert found.terminal is None
    assert (found.exit.cause, found.exit.code) == ("", 0)


def test_a_stopped_process_is_killed_with_its_children(place: Place) -> None:
    code = "import os, signal\nif (pid := os.fork()) == 0:\n    os.kill(os.getpid(), signal.SIGSTOP)\n    os._exit(0)\n"
    code += "os.waitpid(pid, os.WUNTRACED)\nprint('ready', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)"
    found = place.run(code, on_report=stop_at("ready", 1.0))
    assert found.exit.processes_reaped == 2
    assert found.exit.sent[-1].signal in {"SIGTERM", "SIGKILL"}
    assert found.terminal is None or isinstance(found.terminal, Raised)


def test_a_stopped_child_does_not_outlive_its_leader(place: Place) -> None:
    found = place.run("import os, signal\nif os.fork() == 0:\n    os.kill(os.getpid(), signal.SIGSTOP)")
    assert found.exit.code == 0
    assert [(step.signal, step.processes) for step in found.exit.sent] == [("SIGKILL", 1)]


def test_a_kill_from_outside_is_called_so(place: Place) -> None:
    def kill(worker: Worker) -> None:
        os.kill(int(worker.isolation().details["pid"]), signal.SIGKILL)

    code = "import time\nprint('up', flush=True)\ntime.sleep(1000)"
    found = place.run(code, on_report=once_printed("up", kill))
    assert (found.exit.cause, found.exit.signal, found.exit.sent) == ("killed", "SIGKILL", ())


def test_50_mb_in_one_print_arrive_whole(place: Place) -> None:
    found = place.run("print('x' * 50_000_000, end='')")
    assert len(found.text()) == 50_000_000
    assert isinstance(found.terminal, Returned)


def test_50_mb_written_to_the_descriptor_arrive_whole_and_bad_bytes_are_replaced(place: Place) -> None:
    code = "import os\ndata = memoryview(b'\\xff' + b'y' * 49_999_998 + 'é'.encode())\n"
    code += "while data:\n    data = data[os.write(1, data[:99_999]):]"
    text = place.run(code).text()
    assert len(text) == 50_000_000
    assert (text[0], text[-1]) == ("\ufffd", "é")


def test_a_carriage_return_stays_one(place: Place) -> None:
    assert place.run("import os\nos.write(1, b'1%\\r2%\\r\\n')").text() == "1%\r2%\r\n"


HOSTILE = {
    "a header of 4 GB": "b'\\xff\\xff\\xff\\xff' + bytes(4)",
    "a body of 4 GB": "b'\\0\\0\\0\\x02\\xff\\xff\\xff\\xff{}'",
    "no JSON": "frame(b'{{')",
    "deep JSON": "frame(b'[' * 100_000)",
    "JSON deep in a place for anything": 'frame(b\'{"type":"display","data":{"x":\' + b\'[\' * 100_000)',
    "deep JSON that is whole": "frame(b'{\"type\":\"display\",\"data\":{\"x\":' + b'[' * 900 + b']' * 900 + b'}}')",
    "an unknown frame": 'frame(b\'{"type":"queued"}\')',
    "a frame that only the manager may make": 'frame(b\'{"type":"job_update","status":"completed"}\')',
    "such a frame among others": 'frame(b\'[{"type":"returned"},{"type":"job_update","status":"completed"}]\')',
    "a value among others": 'frame(b\'[{"type":"value","name":"x","format":"json"}]\')',
    "frames in frames": 'frame(b\'[[{"type":"returned"}]]\')',
    "too many frames in one": 'frame(b"[" + b\'{"type":"clear_output"},\' * 30_000 + b\'{"type":"returned"}]\')',
    "a number of many digits": "frame(b'{\"type\":\"node_progress\",\"progress\":' + b'9' * 5_000_000 + b'}')",
    "no text": 'frame(b\'{"type":"stream","name":"stdout","text":"\\xff"}\')',
    "a lone surrogate": 'frame(rb\'{"type":"stream","name":"stdout","text":"\\ud800"}\')',
    "a value of a wrong size": 'frame(b\'{"type":"value","name":"x","format":"json","sizes":[9]}\')',
    "a value by reference": 'frame(b\'{"type":"value","name":"x","format":"object"}\')',
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_on_the_channel_are_a_protocol_error(grouped: Place, what: str) -> None:
    async def work(runner: SubprocessRunner) -> None:
        job = grouped.job(JobRequest(work=CodeWork(f"{SEND_RAW}\nsend({HOSTILE[what]})\ntime.sleep(1000)")))
        async with runner.launch(job, Parcel(environ=os.environ)) as worker:
            with pytest.raises(ProtocolError, match=r"not allowed|wrong form"):
                print([report async for batch in worker.reports() for report in batch])
            worker.stop(0.1)
            assert (await worker.wait()).sent

    grouped.session(work)


def test_a_job_waits_while_nobody_takes_its_output(place: Place) -> None:
    async def work(runner: SubprocessRunner) -> int:
        code = "import os\nfor _ in range(200):\n    os.write(1, bytes(1 << 20))"
        job = place.job(JobRequest(work=CodeWork(code)))
        async with runner.launch(job, Parcel(environ=os.environ)) as worker:
            stdout = worker._inflow._open[0]  # type: ignore[attr-defined]
            batches = worker.reports()
            taken = [*await anext(batches)]
            while not _is_full(stdout):
                await anyio.sleep(0.01)
            for _ in range(9):
                await anyio.lowlevel.checkpoint()
            assert _is_full(stdout), "somebody reads what nobody takes"
            taken += [report async for batch in batches for report in batch]
        return sum(len(report.text) for report in taken if isinstance(report, Stream))

    assert place.session(work) == 200 << 20

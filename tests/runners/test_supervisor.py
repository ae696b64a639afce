"""The supervisor when its owner, or it itself, is killed; and what it costs to run many jobs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import psutil
import pytest

from nodetool_jupyter import places
from nodetool_jupyter.events import Exit
from nodetool_jupyter.frames import Returned
from nodetool_jupyter.jobs import CodeWork, JobRequest
from nodetool_jupyter.runners.base import Parcel, Worker, WorkerNotStarted
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from tests.components import require, require_right
from tests.runners.processes import HANG_GUARD_SECONDS, Place, once_printed, stop_at, supervisors

ROOT = Path(__file__).parents[2]
PACKAGES = sysconfig.get_paths()["purelib"]
OWNER = """
import os, sys, signal, anyio
sys.path.insert(0, {root!r})
from tests.runners.processes import Place, once_printed
place = Place({grouped}, owner={owner!r})
CODE = '''
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(1000)
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
open(os.environ["TMPDIR"] + "/left", "w").write("x")
print("up", flush=True)
while True:
    time.sleep(1)
'''
def up(worker):
    print("up", flush=True)
place.run(CODE, on_report=once_printed("up", up))
"""
HOLDS_THE_CHANNEL = "if os.fork() == 0:\n    import time; time.sleep(5); os._exit(0)"


def owner_program(place: Place, extra: str = "") -> subprocess.Popen[str]:
    """A process of its own that owns a runner, with one job that ignores SIGTERM and has a daemon."""
    program = OWNER.format(root=str(ROOT), grouped=place.grouped, owner=place.owner)
    program = program.replace("def up(worker):", "def up(worker):\n" + textwrap.indent(extra, " " * 4))
    place.jobs.append(f"{place.owner}-0")
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def supervisor_of(pid: int) -> psutil.Process:
    [found] = supervisors(pid)
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("extra", ["", HOLDS_THE_CHANNEL], ids=["alone", "with a forked child"])
def test_when_the_owner_dies_everything_is_gone_and_so_is_the_supervisor(
    place: Place, how: signal.Signals, extra: str
) -> None:
    with owner_program(place, extra) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "up\n"
        supervisor = supervisor_of(owner.pid)
        assert place.leftovers()["processes"]
        os.kill(owner.pid, how)
        owner.wait(HANG_GUARD_SECONDS)
        supervisor.wait(HANG_GUARD_SECONDS)
        assert place.leftovers() == {"processes": [], "folders": [], "cgroups": []}
    _forget(place)


def test_signals_to_the_group_of_the_owner_do_not_reach_jobs(place: Place) -> None:
    async def work(runner: SubprocessRunner) -> Exit:
        def up(worker: Worker) -> None:
            pid = int(worker.isolation().details["pid"])
            parent = psutil.Process(pid).parent()
            assert parent is not None
            assert len({os.getsid(0), os.getsid(pid), os.getsid(parent.pid)}) == 3
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(parent.pid, number)
            worker.stop(2 * HANG_GUARD_SECONDS)

        code = "import time\nprint('up', flush=True)\nwhile True:\n    time.sleep(0.01)"
        return (await place.drive(runner, code, on_report=once_printed("up", up))).exit

    ended = place.session(work)
    assert [step.signal for step in ended.sent] == ["SIGINT"]


def test_when_the_supervisor_is_killed_its_jobs_die_and_the_next_job_gets_a_new_one(place: Place) -> None:
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\n"
    code += "print('up', flush=True)\ntime.sleep(1000)"

    def kill(worker: Worker) -> None:
        supervisor_of(os.getpid()).kill()

    async def work(runner: SubprocessRunner) -> tuple[Exit, Exit]:
        lost = await place.drive(runner, code, on_report=once_printed("up", kill))
        assert place.leftovers()["processes"] == []
        return lost.exit, (await place.drive(runner, "print('again')")).exit

    lost, again = place.session(work)
    assert (lost.cause, lost.code) == ("supervisor_lost", None)
    assert (again.cause, again.code) == ("", 0)


def test_a_stop_runs_its_course_while_the_owner_hangs(place: Place) -> None:
    code = "import signal, time\n"
    code += "for number in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(number, signal.SIG_IGN)\n"
    code += "print('up', flush=True)\nwhile True:\n    time.sleep(1)"

    def stop_and_hang(worker: Worker) -> None:
        process = psutil.Process(int(worker.isolation().details["pid"]))
        worker.stop(0.2)
        process.wait(HANG_GUARD_SECONDS)

    found = place.run(code, on_report=once_printed("up", stop_and_hang))
    assert [step.signal for step in found.exit.sent] == ["SIGINT", "SIGTERM", "SIGKILL"]


def test_an_ended_job_has_not_even_a_process_left_that_is_dead(place: Place) -> None:
    code = """
        import os, signal, time
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for _ in range(60):
            if (pid := os.fork()) == 0:
                time.sleep(1000)
            print(pid)
        print("up", flush=True)
        time.sleep(1000)
    """

    async def work(runner: SubprocessRunner) -> None:
        for _ in range(5):
            found = await place.drive(runner, textwrap.dedent(code), on_report=stop_at("up", 0))
            assert [pid for pid in found.text().split() if pid.isdigit() and os.path.exists(f"/proc/{pid}")] == []

    place.session(work)


def test_leaving_a_launched_worker_without_a_word_kills_it(place: Place) -> None:
    async def work(runner: SubprocessRunner) -> None:
        job = place.job(JobRequest(work=CodeWork("import time\ntime.sleep(1000)")))
        async with runner.launch(job, Parcel(environ=os.environ)) as worker:
            pid = int(worker.isolation().details["pid"])
        assert not psutil.pid_exists(pid)

    place.session(work)


def test_a_cancelled_launch_leaves_nothing(place: Place) -> None:
    async def work(runner: SubprocessRunner) -> None:
        async def one() -> None:
            await place.drive(runner, "import time\ntime.sleep(1000)")

        for delay in (0.0, 0.001, 0.005, 0.02, 0.1):
            with anyio.move_on_after(delay):
                await one()

    place.session(work)


@pytest.mark.parametrize("what", ["python", "cwd"])
def test_a_start_that_fails_names_the_path(place: Place, tmp_path: Path, what: str) -> None:
    gone = tmp_path / "gone"
    if what == "python":
        gone.symlink_to(sys.executable)
    else:
        gone.mkdir()

    async def work(runner: SubprocessRunner) -> str:
        fields = {"python": str(gone)} if what == "python" else {"cwd": str(gone)}
        request = JobRequest(work=CodeWork("1"), **fields)  # type: ignore[arg-type]
        runner.check(request)
        (gone.unlink if what == "python" else gone.rmdir)()
        with pytest.raises(WorkerNotStarted) as refused:
            async with runner.launch(place.job(request), Parcel()):
                pass
        return str(refused.value)

    text = place.session(work)
    assert repr(str(gone)) in text
    assert "not exist" in text or "No such file" in text


def test_an_environment_that_is_too_large_fails_to_start_with_the_reason(place: Place) -> None:
    async def work(runner: SubprocessRunner) -> str:
        with pytest.raises(WorkerNotStarted) as refused:
            await place.drive(runner, "1", environ={"X": "x" * (3 << 20)})
        return str(refused.value)

    assert "Argument list too long" in place.session(work)


def test_too_many_open_files_here_fail_the_start_in_a_sentence(place: Place) -> None:
    async def work(runner: SubprocessRunner) -> str:
        await place.drive(runner, "1")
        hoard: list[int] = []
        with pytest.raises(OSError, match="Too many open files"):
            hoard.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(256))
        try:
            with pytest.raises(WorkerNotStarted) as refused:
                await place.drive(runner, "1")
        finally:
            for descriptor in hoard:
                os.close(descriptor)
        assert (await place.drive(runner, "1")).exit.code == 0
        return str(refused.value)

    assert "Too many open files" in _with_few_descriptors(lambda: place.session(work))


def _with_few_descriptors(work: Callable[[], str]) -> str:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 100, before[1]))
    try:
        return work()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_many_jobs_leave_descriptors_children_and_memory_flat(place: Place) -> None:
    async def work(runner: SubprocessRunner) -> None:
        async def several(count: int) -> None:
            limiter = anyio.Semaphore(4)

            async def one() -> None:
                async with limiter:
                    found = await place.drive(runner, "print('x')")
                    assert isinstance(found.terminal, Returned)
                    assert found.exit.code == 0

            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(one)

        await several(4)
        supervisor = supervisor_of(os.getpid())
        before = (psutil.Process().num_fds(), supervisor.num_fds(), psutil.Process().num_threads())
        memory = supervisor.memory_info().rss
        await several(150)
        assert (psutil.Process().num_fds(), supervisor.num_fds(), psutil.Process().num_threads()) == before
        assert supervisor.children() == []
        assert supervisor.memory_info().rss < memory + (1 << 20)

    place.session(work)


@pytest.fixture
def everyones_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ntj-everyone-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_a_user_without_rights_gets_jobs_limits_and_stops_too(everyones_folder: Path) -> None:
    require_right("The right to become another user", os.geteuid() == 0, "run the tests as root")
    setpriv = require("setpriv of util-linux", shutil.which("setpriv"), "apt-get install util-linux")
    become = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    python = require("An interpreter that everyone may run", _public_python(become), "make one outside of /root")
    program = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.runners.processes import Place, stop_at
    from nodetool_jupyter.jobs import ResourceLimits
    from nodetool_jupyter.runners.subprocess import SubprocessRunner
    place = Place(True)
    print(sorted(SubprocessRunner().holds()))
    print(place.run("import os; print(os.getuid(), os.environ['TMPDIR'] != '')").text(), end="")
    found = place.run("import os, time\\nfor _ in range(40):\\n    if os.fork() == 0: time.sleep(99)\\ntime.sleep(99)",
                      limits=ResourceLimits(pids=20))
    print(found.exit.cause, found.exit.limit)
    found = place.run("import time\\nprint('up', flush=True)\\nwhile 1: time.sleep(0.01)", on_report=stop_at("up", 99))
    print(found.exit.sent[-1].signal, place.leftovers())
    """
    done = subprocess.run(
        [*become, python, "-c", textwrap.dedent(program)],
        env={
            "TMPDIR": str(everyones_folder),
            "PATH": os.environ["PATH"],
            "HOME": str(everyones_folder),
            "PYTHONPATH": PACKAGES,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=everyones_folder,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_SECONDS,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "['cpu_seconds', 'file_size_bytes', 'memory_bytes', 'open_files', 'pids', 'wall_seconds']",
        "65534 True",
        "limit pids",
        "SIGINT {'processes': [], 'folders': [], 'cgroups': []}",
    ]


def _public_python(become: list[str]) -> str | None:
    """An interpreter of this version that another user can start, and that can start itself again."""
    again = "import subprocess, sys, msgspec; subprocess.run([sys.executable, '-c', ''], check=True)"
    for name in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        if os.path.exists(name):
            done = subprocess.run(
                [*become, name, "-c", again], env={"PYTHONPATH": PACKAGES}, capture_output=True, check=False
            )
            if done.returncode == 0:
                return name
    return None


def _forget(place: Place) -> None:
    """The folder of an owner that was killed is left to the sweep; here we are the sweep."""
    shutil.rmtree(places.job_root() / place.owner, ignore_errors=True)

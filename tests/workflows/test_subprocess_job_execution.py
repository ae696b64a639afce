"""Jobs in processes of their own, from request to last event, through the manager."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from nodetool_jupyter import places
from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import InvalidRequest, LimitNotHeld, ProfileRefused
from nodetool_jupyter.events import (
    AnyEvent,
    Display,
    Exit,
    Isolation,
    JobUpdate,
    NodeProgress,
    OutputUpdate,
    Stream,
    UsageUpdate,
)
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus, Profile, Reason, ResourceLimits
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Parcel
from nodetool_jupyter.worker import cgroups, tree
from tests.components import require_right
from tests.runners.processes import supervisors
from tests.workflows.seeing import Seen

HANG_GUARD_SECONDS = 60.0
SLEEP = "import time\nprint('up', flush=True)\nwhile True:\n    time.sleep(0.01)"
STUBBORN = (
    "import signal, time\nfor n in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(n, signal.SIG_IGN)\n"
    "print('up', flush=True)\nwhile True:\n    time.sleep(1)"
)


class Jobs:
    """A manager, the environment of its jobs, and the ids of all that ran."""

    def __init__(self, manager: JobExecutionManager, settings: Settings) -> None:
        self.manager = manager
        self.environ = settings.environ
        self.ids: list[str] = []

    def submit(self, code: str, *, secrets: dict[str, str] | None = None, **fields: Any) -> Job:
        request = JobRequest(work=CodeWork(code), runner="subprocess", **fields)
        job = self.manager.submit(
            request, Parcel(environ={**self.environ, **request.env}, sys_path=sys.path, secrets=secrets or {})
        )
        self.ids.append(job.id)
        return job

    def run(self, code: str, **fields: Any) -> tuple[Job, list[AnyEvent]]:
        return self.end(self.submit(code, **fields))

    def end(self, job: Job) -> tuple[Job, list[AnyEvent]]:
        return self.manager.wait(job.id, HANG_GUARD_SECONDS), self.manager.events(job.id)

    def when_it_prints(self, job: Job, text: str = "up") -> list[AnyEvent]:
        """Wait for a text in its output; the events until then."""
        seen: list[AnyEvent] = []
        there = threading.Event()

        def listen(events: Sequence[AnyEvent]) -> None:
            seen.extend(events)
            if any((isinstance(each, Stream) and text in each.text) or isinstance(each, Exit) for each in events):
                there.set()

        stop = self.manager.subscribe(job.id, listen)
        assert there.wait(HANG_GUARD_SECONDS)
        stop()
        assert any(isinstance(each, Stream) and text in each.text for each in seen)
        return seen


@pytest.fixture
def jobs(manager: JobExecutionManager, settings: Settings) -> Iterator[Jobs]:
    """Every test ends with the proof that no process and no folder of its jobs is left."""
    found = Jobs(manager, settings)
    yield found
    manager.close()
    assert [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if tree.job_of(pid) in found.ids] == []
    assert [path for path in places.job_root().glob(f"{manager.owner.id}/*") if path.is_dir()] == []
    assert supervisors(os.getpid()) == []


def one(events: list[AnyEvent], kind: type) -> Any:
    [found] = [event for event in events if isinstance(event, kind)]
    return found


def text(events: list[AnyEvent], name: str = "stdout") -> str:
    return "".join(event.text for event in events if isinstance(event, Stream) and event.name == name)


def pid_of(events: list[AnyEvent]) -> int:
    return int(one(events, Isolation).details["pid"])


def test_a_job_runs_in_a_process_of_its_own_and_completes(jobs: Jobs) -> None:
    job, events = jobs.run("import os\nprint(os.getpid(), os.getppid() != 1)\n6 * 7")
    assert (job.status, job.reason) == (JobStatus.COMPLETED, None)
    assert text(events) == f"{pid_of(events)} True\n"
    assert pid_of(events) != os.getpid()
    assert one(events, Display).data["text/plain"] == "42"
    assert one(events, Exit).code == 0


def test_events_come_in_order_and_end_with_the_final_status(jobs: Jobs) -> None:
    _, events = jobs.run("print('x')")
    kinds = [event.status if isinstance(event, JobUpdate) else type(event).__name__ for event in events]
    assert kinds[:4] == ["queued", "starting", "Isolation", "running"]
    assert kinds[-2:] == ["Exit", "completed"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_outputs_come_back_by_name(jobs: Jobs) -> None:
    job, events = jobs.run("x = [1, 2]\ny = 'not asked for'", outputs=("x",))
    assert [event.output_name for event in events if isinstance(event, OutputUpdate)] == ["x"]
    assert "x" in jobs.manager.values(job.id)
    assert "y" not in jobs.manager.values(job.id)


def test_progress_is_live(jobs: Jobs) -> None:
    _, events = jobs.run("from nodetool_jupyter import progress\nfor n in range(11):\n    progress(n, 10)")
    bars = [event for event in events if isinstance(event, NodeProgress)]
    assert (bars[-1].progress, bars[-1].total) == (10, 10)


def test_an_exception_fails_the_job_with_its_traceback(jobs: Jobs) -> None:
    job, events = jobs.run("def f():\n    return 1 / 0\nf()")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    assert job.message.startswith("ZeroDivisionError")
    last = events[-1]
    assert isinstance(last, JobUpdate)
    assert "1 / 0" in (last.traceback or "")


def test_a_cancelled_job_is_cancelled_and_never_failed(jobs: Jobs) -> None:
    job = jobs.submit(SLEEP)
    jobs.when_it_prints(job)
    assert jobs.manager.cancel(job.id)
    job, events = jobs.end(job)
    assert job.status is JobStatus.CANCELLED
    assert [step.signal for step in one(events, Exit).sent] == ["SIGINT"]
    assert "cancelling" in [event.status for event in events if isinstance(event, JobUpdate)]


def test_a_job_that_ignores_signals_is_cancelled_all_the_same(jobs: Jobs) -> None:
    job = jobs.submit(STUBBORN, grace_seconds=0.4)
    jobs.when_it_prints(job)
    jobs.manager.cancel(job.id)
    job, events = jobs.end(job)
    assert job.status is JobStatus.CANCELLED
    assert [step.signal for step in one(events, Exit).sent] == ["SIGINT", "SIGTERM", "SIGKILL"]


def test_cleaning_up_runs_when_a_job_is_stopped(jobs: Jobs) -> None:
    code = "import atexit\natexit.register(print, 'at exit')\ntry:\n    exec(SLEEP)\nfinally:\n    print('finally')"
    job = jobs.submit(code.replace("SLEEP", repr(SLEEP)), grace_seconds=30.0)
    jobs.when_it_prints(job)
    jobs.manager.cancel(job.id)
    _, events = jobs.end(job)
    assert "finally" in text(events)
    assert "at exit" in text(events)


def test_a_job_past_its_time_is_stopped(jobs: Jobs) -> None:
    job, _ = jobs.run(SLEEP, limits=ResourceLimits(wall_seconds=0.5))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.TIMEOUT)
    assert "--timeout" in job.message


def test_a_job_that_runs_out_of_memory_says_so_with_the_remedy(jobs: Jobs) -> None:
    job, _ = jobs.run("x = bytearray(500 << 20)", limits=ResourceLimits(memory_bytes=100 << 20))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.OUT_OF_MEMORY)
    assert "--memory 200m" in job.message


@pytest.mark.parametrize(
    ("code", "limits", "sentence"),
    [
        (
            "x = [open('/dev/null') for _ in range(100)]",
            ResourceLimits(open_files=64),
            "The limit of 64 open files was reached. Rerun with Limits(open_files=128).",
        ),
        (
            "import os\nwith open(os.environ['TMPDIR'] + '/big', 'wb') as f:\n    f.write(bytes(1 << 20))",
            ResourceLimits(file_size_bytes=1 << 16),
            "The limit of 64 KiB for a file was reached. Rerun with Limits(file_size_bytes=131072).",
        ),
    ],
    ids=["open files", "file size"],
)
def test_an_error_that_a_limit_made_says_so_with_the_remedy(
    jobs: Jobs, code: str, limits: ResourceLimits, sentence: str
) -> None:
    job, _ = jobs.run(code, limits=limits)
    assert job.status is JobStatus.FAILED
    assert job.message.startswith("OSError: [Errno ")
    assert job.message.endswith(f". {sentence}")


@pytest.mark.parametrize(
    "more", ["os.fork() or time.sleep(99)", "threading.Thread(target=time.sleep, args=[99]).start()"]
)
def test_a_fork_or_a_thread_that_a_limit_refused_says_so_with_the_remedy(jobs: Jobs, more: str) -> None:
    grouped = "pids" in cgroups.mechanisms(cgroups.find())
    require_right("A control group for processes", grouped, "run as root, or where they are delegated to you")
    code = f"import os, threading, time\nfor _ in range(40):\n    {more}"
    job, _ = jobs.run(code, limits=ResourceLimits(pids=20))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    assert "The limit of 20 processes and threads was reached" in job.message
    assert "--pids-limit" in job.message


def test_a_memory_error_under_a_limit_without_control_groups_says_so_with_the_remedy(settings: Settings) -> None:
    from nodetool_jupyter.runners.subprocess import SubprocessRunner

    with JobExecutionManager(settings, runners=[SubprocessRunner(use_cgroups=False)]) as manager:
        limits = ResourceLimits(memory_bytes=128 << 20)
        request = JobRequest(work=CodeWork("x = bytearray(400 << 20)"), runner="subprocess", limits=limits)
        job = manager.wait(manager.submit(request, Parcel(environ=settings.environ)).id, timeout=HANG_GUARD_SECONDS)
    assert job.reason is Reason.OUT_OF_MEMORY
    assert job.message == "MemoryError. The limit of 128 MiB of memory was reached. Rerun with --memory 256m."


def test_a_job_that_uses_up_its_processor_time_says_so(jobs: Jobs) -> None:
    job, _ = jobs.run("while True: pass", limits=ResourceLimits(cpu_seconds=1))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.LIMIT)
    assert "processor time" in job.message


def test_a_crash_shows_the_line_that_crashed(jobs: Jobs) -> None:
    job, _ = jobs.run("import ctypes\nctypes.string_at(0)")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.CRASHED)
    assert "SIGSEGV" in job.message
    assert '"<cell>", line 2' in job.message


def test_a_kill_from_outside_is_told_apart(jobs: Jobs) -> None:
    job = jobs.submit(SLEEP)
    os.kill(pid_of(jobs.when_it_prints(job)), signal.SIGKILL)
    job, _ = jobs.end(job)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.KILLED)
    assert "SIGKILL" in job.message


def test_success_is_never_concluded_from_exit_code_0(jobs: Jobs) -> None:
    job, _ = jobs.run("import os\nos._exit(0)")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.NO_RESULT)


def test_a_process_that_lives_on_after_its_result_is_stopped(jobs: Jobs) -> None:
    code = f"import atexit\natexit.register(exec, {STUBBORN!r}, {{}})"
    job, events = jobs.run(code, grace_seconds=0.3)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.NO_RESULT)
    assert "did not end" in job.message
    assert one(events, Exit).sent


def test_the_death_of_the_supervisor_fails_its_jobs_and_not_the_next(jobs: Jobs) -> None:
    job = jobs.submit(SLEEP)
    jobs.when_it_prints(job)
    [supervisor] = supervisors(os.getpid())
    supervisor.kill()
    job, _ = jobs.end(job)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.LOST)
    assert jobs.run("1")[0].status is JobStatus.COMPLETED


def test_a_missing_working_directory_fails_the_start_by_name(jobs: Jobs) -> None:
    job, _ = jobs.run("1", cwd="/nowhere/at/all")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert "'/nowhere/at/all'" in job.message


def test_refusals_leave_no_job(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no bubblewrap
    with pytest.raises(ProfileRefused, match="NT-S02"):
        jobs.submit("1", profile=Profile.UNTRUSTED)
    with pytest.raises(InvalidRequest, match="/nowhere/python"):
        jobs.submit("1", python="/nowhere/python")
    assert jobs.manager.find() == []


def test_a_job_sees_its_environment_and_its_secrets_and_not_the_kernels(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNEL_ONLY", "sentinel-kernel")
    # backwards, for a secret is cut out of what is recorded
    code = "import os\nprint(os.environ['ASKED'], os.environ['TOKEN'][::-1], 'KERNEL_ONLY' in os.environ)\n"
    code += "told = open('/proc/self/environ').read() + open('/proc/self/cmdline').read()\n"
    code += "print(told.replace(chr(0), ' ')[::-1])"
    _, events = jobs.run(code, env={"ASKED": "yes"}, secrets={"TOKEN": "sentinel-secret"})
    first, rest = text(events).split("\n", 1)
    assert first == f"yes {'sentinel-secret'[::-1]} False"
    assert "sentinel"[::-1] not in rest


def test_jobs_run_in_the_kernels_working_directory(jobs: Jobs) -> None:
    _, events = jobs.run("import os\nprint(os.getcwd())")
    assert text(events) == f"{os.getcwd()}\n"


def test_two_jobs_share_nothing(jobs: Jobs) -> None:
    jobs.run("import builtins\nbuiltins.leaked = leaked = 1")
    job, _ = jobs.run("leaked")
    assert job.message.startswith("NameError")


def test_many_jobs_are_cancelled_at_once(jobs: Jobs) -> None:
    started = [jobs.submit(SLEEP) for _ in range(12)]
    for job in started:
        jobs.manager.cancel(job.id)
        jobs.manager.cancel(job.id)
    assert {jobs.end(job)[0].status for job in started} == {JobStatus.CANCELLED}


def test_closing_the_manager_ends_every_job(jobs: Jobs) -> None:
    job = jobs.submit(STUBBORN)
    pid = pid_of(jobs.when_it_prints(job))
    jobs.manager.close()
    assert not psutil.pid_exists(pid)


def test_a_job_and_its_daemon_use_what_is_reported(jobs: Jobs, tmp_path: Path) -> None:
    code = "import os, subprocess, time\nx = b'x' * (60 << 20)\nsubprocess.Popen(['sleep', '1000'])\n"
    job = jobs.submit(f"{code}while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)")
    seen = Seen(jobs.manager, job)
    seen.wait(lambda event: isinstance(event, UsageUpdate) and event.processes == 2)
    (tmp_path / "go").touch()
    job, events = jobs.end(job)
    assert job.usage.peak_memory_bytes > 60 << 20
    assert [step.signal for step in one(events, Exit).sent] == ["SIGKILL"]
    assert job.status is JobStatus.COMPLETED


def test_a_limit_that_can_not_be_held_is_refused(settings: Settings) -> None:
    from nodetool_jupyter.runners.subprocess import SubprocessRunner

    with JobExecutionManager(settings, runners=[SubprocessRunner(use_cgroups=False)]) as manager:
        request = JobRequest(work=CodeWork("1"), runner="subprocess", limits=ResourceLimits(cpus=0.1))
        with pytest.raises(LimitNotHeld, match="--best-effort"):
            manager.submit(request)

"""How a job in a thread is stopped, timed and limited, and where Python sets limits to that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import InvalidRequest, LimitNotHeld, ProfileRefused
from nodetool_jupyter.events import (
    AnyEvent,
    Exit,
    Isolation,
    Notification,
)
from nodetool_jupyter.jobs import CodeWork, JobRequest, JobStatus, Profile, Reason, ResourceLimits
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Parcel
from nodetool_jupyter.runners.thread_stop import whereabouts
from tests.workflows.seeing import HANG_GUARD_SECONDS, Run, Seen, Submit, end, notes, of, text

HERE = "import threading; thread = threading.current_thread(); print('ready')"


def until_it_waits(namespace: dict[str, Any]) -> None:
    """Until a job that began with `HERE` waits for its gate in C code, where no exception reaches its thread."""
    guard = time.monotonic() + HANG_GUARD_SECONDS
    # the same call stands before the gate knows of a waiter, and does not wait there
    while not (namespace["gate"]._cond._waiters and "waiter.acquire()" in whereabouts(namespace["thread"])):
        assert time.monotonic() < guard, "it does not wait"
        time.sleep(0.001)


def test_python_code_is_stopped_at_once(manager: JobExecutionManager, submit: Submit) -> None:
    job = submit("print('ready')\nwhile True: pass")
    Seen(manager, job).printed("ready")
    assert manager.cancel(job.id)
    job, events = end(manager, job)
    assert (job.status, job.reason) == (JobStatus.CANCELLED, None)
    (exit_event,) = of(events, Exit)
    assert list(dict.fromkeys(step.signal for step in exit_event.sent)) == ["cancelled flag", "exception"]


def test_a_job_that_looks_at_cancelled_ends_in_its_own_way(manager: JobExecutionManager, submit: Submit) -> None:
    code = (  # the interrupt that comes with the flag may hit anywhere below
        "import nodetool_jupyter as nt\naway = False\nwhile not away:\n    try:\n        print('ready')\n"
        "        while not nt.cancelled(): pass\n        print('put away')\n        away = True\n"
        "    except KeyboardInterrupt: pass"
    )
    job = submit(code)
    Seen(manager, job).printed("ready")
    manager.cancel(job.id)
    job, events = end(manager, job)
    assert job.status is JobStatus.CANCELLED
    assert text(events).endswith("put away\n")


def test_a_thread_that_is_stuck_stalls_none_that_is_traced(settings: Settings, gate: threading.Event) -> None:
    def trace(frame: object, event: str, argument: object) -> object:
        return trace

    before = threading.gettrace()
    threading.settrace(trace)  # type: ignore[arg-type]
    try:
        with JobExecutionManager(settings) as manager:
            request = JobRequest(work=CodeWork(f"{HERE}\ngate.wait()"), grace_seconds=0.1)
            space: dict[str, Any] = {"gate": gate}
            job = manager.submit(request, Parcel(namespace=space))
            seen = Seen(manager, job)
            seen.printed("ready")
            until_it_waits(space)
            manager.cancel(job.id)
            seen.wait(lambda event: isinstance(event, Notification) and event.code == "NT-C01")
            gate.set()
            assert manager.wait(job.id, HANG_GUARD_SECONDS).status is JobStatus.CANCELLED
    finally:
        threading.settrace(before)  # type: ignore[arg-type]


def test_an_async_cell_is_cancelled_as_a_task(manager: JobExecutionManager, submit: Submit) -> None:
    job = submit("import asyncio\nprint('ready')\ntry:\n    await asyncio.sleep(1000)\nfinally:\n    print('cleaned')")
    Seen(manager, job).printed("ready")
    manager.cancel(job.id)
    job, events = end(manager, job)
    assert job.status is JobStatus.CANCELLED
    assert text(events) == "ready\ncleaned\n"
    assert [step.signal for step in of(events, Exit)[0].sent] == ["cancelled flag", "task cancelled"]


def test_a_thread_that_cannot_be_stopped_stays_cancelling_and_says_where_it_is(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event
) -> None:
    other = threading.Event()
    space: dict[str, Any] = {"gate": gate, "other": other}
    code = f"{HERE}\ntry:\n    gate.wait()\nfinally:\n    other.wait()"
    job = submit(code, parcel=Parcel(namespace=space), grace_seconds=0.2)
    seen = Seen(manager, job)
    seen.printed("ready")
    until_it_waits(space)
    manager.cancel(job.id)

    def stuck(line: int) -> Callable[[AnyEvent], bool]:
        return lambda event: (
            isinstance(event, Notification) and event.code == "NT-C01" and f"line {line}" in event.content
        )

    note = seen.wait(stuck(3))
    assert isinstance(note, Notification)
    assert "threading.py" in note.content
    assert "--runner subprocess" in note.content
    assert manager.get(job.id).status is JobStatus.CANCELLING
    gate.set()
    seen.wait(stuck(5))
    assert manager.get(job.id).status is JobStatus.CANCELLING
    other.set()
    assert end(manager, job)[0].status is JobStatus.CANCELLED


def test_code_that_swallows_everything_is_interrupted_again_and_again(
    manager: JobExecutionManager, submit: Submit
) -> None:
    code = (
        "caught = 0\nwhile caught < 3:\n    try:\n        print('ready')\n"
        "        while True: sum(range(9))\n    except BaseException:\n        caught += 1"
    )
    job = submit(code, grace_seconds=0.1)
    Seen(manager, job).printed("ready")
    manager.cancel(job.id)
    job, events = end(manager, job)
    assert job.status is JobStatus.CANCELLED
    assert notes(events, "NT-C01")


def test_a_cancel_at_the_moment_of_the_end_hits_nobody_else(manager: JobExecutionManager, submit: Submit) -> None:
    for _ in range(300):
        job = submit("x = 1")
        manager.cancel(job.id)
        assert manager.wait(job.id, HANG_GUARD_SECONDS).status in (JobStatus.CANCELLED, JobStatus.COMPLETED)
    assert end(manager, submit("'alive'"))[0].status is JobStatus.COMPLETED


def test_time_is_limited(run: Run) -> None:
    job, _ = run("while True: pass", limits=ResourceLimits(wall_seconds=0.1))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.TIMEOUT)


def test_a_keyboard_interrupt_of_the_kernel_does_not_touch_a_job(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event
) -> None:
    import signal

    job = submit("print('ready')\ngate.wait()\n'whole'", parcel=Parcel(namespace={"gate": gate}))
    Seen(manager, job).printed("ready")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    gate.set()
    assert end(manager, job)[0].status is JobStatus.COMPLETED


def test_untrusted_code_is_refused(submit: Submit) -> None:
    with pytest.raises(ProfileRefused, match=r"kernel's own process.*Nothing was started.*NT-S01"):
        submit("1", profile=Profile.UNTRUSTED)


@pytest.mark.parametrize("limit", ["memory_bytes", "cpus", "pids", "cpu_seconds", "open_files", "file_size_bytes"])
def test_a_limit_that_no_thread_can_hold_is_refused(submit: Submit, limit: str) -> None:
    with pytest.raises(LimitNotHeld, match=r"--runner subprocess.*--best-effort"):
        submit("1", limits=ResourceLimits(**{limit: 1 << 20}))


def test_with_best_effort_the_limit_that_is_not_held_is_recorded(run: Run) -> None:
    limits = ResourceLimits(memory_bytes=1 << 30, wall_seconds=60, best_effort=True)
    (isolation,) = of(run("1", limits=limits)[1], Isolation)
    assert isolation.boundary == "none"
    assert set(isolation.held) == {"wall_seconds"}
    assert isolation.not_held == ("memory_bytes",)


@pytest.mark.parametrize(
    "asked", [{"env": {"A": "1"}}, {"secrets": ("A",)}, {"python": "/usr/bin/python3"}, {"cwd": "/nowhere"}], ids=str
)
def test_what_only_a_process_can_have_is_refused(submit: Submit, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="--runner subprocess"):
        submit("1", **asked)

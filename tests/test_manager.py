"""The manager over a scripted runner: statuses, order of events, stops, queue, listeners."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodetool_jupyter import events as ev
from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import (
    InvalidRequest,
    JobExists,
    JobNotFinished,
    JobNotFound,
    QueueFull,
    RunnerUnavailable,
)
from nodetool_jupyter.events import Exit
from nodetool_jupyter.feed import Listener
from nodetool_jupyter.frames import Raised, Returned, Value
from nodetool_jupyter.jobs import CodeWork, JobRequest, JobStatus, Reason, ResourceLimits
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.testing import ScriptedRunner, Step, collect

Start = Callable[..., JobExecutionManager]


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    """Start a manager over runners."""
    with ExitStack() as stack:

        def begin(*runners: ScriptedRunner, environ: dict[str, str] | None = None) -> JobExecutionManager:
            own = Settings({**settings.environ, **(environ or {})})
            return stack.enter_context(JobExecutionManager(own, runners=runners))

        yield begin


def request(runner: str = "scripted", **fields: object) -> JobRequest:
    return JobRequest(work=CodeWork("1"), runner=runner, **fields)  # type: ignore[arg-type]


def statuses(events: list[ev.AnyEvent]) -> list[str]:
    return [event.status for event in events if isinstance(event, ev.JobUpdate)]


def test_a_job_goes_from_queued_to_completed_and_numbers_its_events_without_gaps(start: Start) -> None:
    manager = start(ScriptedRunner(ev.Stream(name="stdout", text="hi\n"), Returned()))
    job = manager.submit(request())
    events = collect(manager, job.id)
    assert statuses(events) == ["queued", "starting", "running", "completed"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.job_id for event in events} == {job.id}
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["JobUpdate", "JobUpdate", "Isolation", "JobUpdate", "Stream", "Exit", "JobUpdate"]


def test_a_job_is_stored_when_submit_returns(start: Start) -> None:
    runner = ScriptedRunner(Step.PAUSE, Returned())
    manager = start(runner)
    job = manager.submit(request())
    assert manager.store.get(job.id) is not None
    runner.resume()
    assert manager.wait(job.id, 30).status is JobStatus.COMPLETED


def test_an_id_that_the_caller_chose_is_kept_and_never_used_twice(start: Start) -> None:
    manager = start(ScriptedRunner())
    assert manager.submit(request(), job_id="my-job").id == "my-job"
    manager.wait("my-job", 30)
    with pytest.raises(JobExists, match="my-job"):
        manager.submit(request(), job_id="my-job")


@pytest.mark.parametrize("job_id", ["", "-1", "a b", "../x", "x" * 65])
def test_an_id_that_cannot_be_used_is_refused(start: Start, job_id: str) -> None:
    manager = start(ScriptedRunner())
    with pytest.raises(InvalidRequest, match="letters"):
        manager.submit(request(), job_id=job_id)


def test_a_refusal_leaves_no_job(start: Start) -> None:
    manager = start(ScriptedRunner(refuse=RunnerUnavailable("scripted", "the test says so", "Choose another")))
    with pytest.raises(RunnerUnavailable):
        manager.submit(request())
    assert manager.find() == []


def test_an_unknown_runner_is_refused_with_the_known_ones(start: Start) -> None:
    manager = start(ScriptedRunner(), ScriptedRunner(name="other"))
    with pytest.raises(InvalidRequest, match="other, scripted"):
        manager.submit(request("kubernetes"))


def test_exit_0_without_a_result_is_a_failure(start: Start) -> None:
    manager = start(ScriptedRunner(ev.Stream(name="stdout", text="done\n"), exit=Exit(code=0)))
    job = manager.submit(request())
    ended = manager.wait(job.id, 30)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.NO_RESULT)


def test_a_result_without_exit_0_is_a_failure(start: Start) -> None:
    manager = start(ScriptedRunner(Returned(), exit=Exit(code=3)))
    ended = manager.wait(manager.submit(request()).id, 30)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.CRASHED)


def test_an_exception_fails_the_job_with_its_text_and_traceback(start: Start) -> None:
    manager = start(ScriptedRunner(Raised("ValueError", "no", ("line 1", "line 2")), exit=Exit(code=1)))
    job = manager.submit(request())
    last = collect(manager, job.id)[-1]
    assert isinstance(last, ev.JobUpdate)
    assert (last.status, last.reason, last.error) == ("failed", "error", "ValueError: no")
    assert last.traceback == "line 1\nline 2"


def test_what_comes_after_the_result_counts_for_nothing(start: Start) -> None:
    manager = start(ScriptedRunner(Returned(), Raised("ValueError", "late"), Value("x", "json", sizes=(1,), body=b"1")))
    job = manager.submit(request())
    assert manager.wait(job.id, 30).status is JobStatus.COMPLETED
    assert "x" not in manager.values(job.id)


def test_a_worker_that_cannot_be_started_fails_the_job_with_the_cause(start: Start) -> None:
    manager = start(ScriptedRunner(fail_to_start="There is no interpreter at /nowhere."))
    ended = manager.wait(manager.submit(request()).id, 30)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert "/nowhere" in ended.message


def test_a_runner_that_breaks_ends_its_job_and_no_other(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    broken = ScriptedRunner(Returned(), name="broken")
    broken.launch = lambda job, parcel: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    manager = start(broken, ScriptedRunner())
    ended = manager.wait(manager.submit(request("broken")).id, 30)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.CRASHED)
    assert "ZeroDivisionError" in ended.message
    assert manager.wait(manager.submit(request()).id, 30).status is JobStatus.COMPLETED


def test_a_cancelled_job_is_never_failed(start: Start) -> None:
    manager = start(ScriptedRunner(Step.HANG))
    job = manager.submit(request())
    assert manager.cancel(job.id) is True
    events = collect(manager, job.id)
    assert statuses(events)[-1] == "cancelled"
    assert manager.cancel(job.id) is False
    assert manager.get(job.id).status is JobStatus.CANCELLED


def test_a_cancel_after_the_result_changes_nothing(start: Start) -> None:
    runner = ScriptedRunner(Returned(), ev.Stream(name="stdout", text="at exit"), Step.PAUSE, stubborn=True)
    manager = start(runner)
    job = manager.submit(request())
    heard = threading.Event()
    manager.subscribe(job.id, lambda batch: heard.set() if isinstance(batch[-1], ev.Stream) else None)
    assert heard.wait(30)
    assert manager.cancel(job.id) is True
    runner.resume()
    assert manager.wait(job.id, 30).status is JobStatus.COMPLETED


def test_a_queued_job_that_is_cancelled_never_starts(start: Start) -> None:
    runner = ScriptedRunner(Step.PAUSE, Returned(), name="threaded")
    manager = start(runner, environ={"THREAD_POOL_SIZE": "1"})
    first, second = (manager.submit(request("threaded")) for _ in range(2))
    manager.cancel(second.id)
    assert manager.wait(second.id, 30).status is JobStatus.CANCELLED
    runner.resume()
    manager.wait(first.id, 30)
    assert [job.id for job in runner.jobs] == [first.id]


def test_fifty_cancels_at_once_make_one_end(start: Start) -> None:
    manager = start(ScriptedRunner(Step.HANG))
    job = manager.submit(request())
    threads = [threading.Thread(target=manager.cancel, args=(job.id,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = collect(manager, job.id)
    assert sum(JobStatus(status).final for status in statuses(events)) == 1


def test_the_time_limit_stops_a_job_and_names_the_remedy(start: Start) -> None:
    manager = start(ScriptedRunner(Step.HANG))
    job = manager.submit(request(limits=ResourceLimits(wall_seconds=0.02)))
    ended = manager.wait(job.id, 30)
    assert (ended.status, ended.reason) == (JobStatus.FAILED, Reason.TIMEOUT)
    assert "--timeout" in ended.message
    assert statuses(manager.events(job.id))[-2:] == ["cancelling", "failed"]


def test_the_first_cause_of_a_stop_is_the_one_that_counts(start: Start) -> None:
    runner = ScriptedRunner(Step.PAUSE, stubborn=True, exit=Exit(signal="SIGKILL"))
    manager = start(runner)
    job = manager.submit(request(limits=ResourceLimits(wall_seconds=0.02)))
    stopping = threading.Event()

    def listen(batch: object) -> None:
        if any(isinstance(event, ev.JobUpdate) and event.status == "cancelling" for event in batch):  # type: ignore[attr-defined]
            stopping.set()

    manager.subscribe(job.id, listen)
    assert stopping.wait(30)
    manager.cancel(job.id)
    runner.resume()
    assert manager.wait(job.id, 30).reason is Reason.TIMEOUT


def test_jobs_that_wait_start_in_the_order_in_which_they_came(start: Start) -> None:
    runner = ScriptedRunner(Step.PAUSE, Returned(), name="subprocess")
    manager = start(runner, environ={"MAX_WORKFLOW_THREADS": "2"})
    jobs = [manager.submit(request("subprocess")) for _ in range(6)]
    runner.resume()
    for job in jobs:
        manager.wait(job.id, 30)
    assert [job.id for job in runner.jobs] == [job.id for job in jobs]


def test_a_full_queue_refuses_and_stores_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodetool_jupyter.admission.QUEUE_LIMIT", 2)
    runner = ScriptedRunner(Step.PAUSE, Returned(), name="threaded")
    manager = start(runner, environ={"THREAD_POOL_SIZE": "1"})
    first = manager.submit(request("threaded"))
    started = threading.Event()
    manager.subscribe(first.id, lambda batch: started.set() if batch[-1].seq > 1 else None)
    assert started.wait(30)
    others = [manager.submit(request("threaded")) for _ in range(2)]
    with pytest.raises(QueueFull):
        manager.submit(request("threaded"))
    assert len(manager.find()) == 3
    runner.resume()
    for job in others:
        manager.wait(job.id, 30)


def test_two_listeners_hear_the_same_events_whenever_they_come(start: Start) -> None:
    lines = [ev.Stream(name="stdout" if n % 2 else "stderr", text=f"{n}\n") for n in range(3000)]
    runner = ScriptedRunner(*lines, Step.PAUSE, Returned())
    manager = start(runner)
    job = manager.submit(request())
    early: list[int] = []
    late: list[int] = []
    halfway, ended = threading.Event(), threading.Semaphore(0)

    def listener(heard: list[int]) -> Listener:
        def listen(batch: Sequence[ev.AnyEvent]) -> None:
            heard.extend(event.seq for event in batch)
            if len(heard) > 1500:
                halfway.set()
            if isinstance(batch[-1], ev.JobUpdate) and batch[-1].status == "completed":
                ended.release()

        return listen

    manager.subscribe(job.id, listener(early))
    assert halfway.wait(60)
    manager.subscribe(job.id, listener(late))
    runner.resume()
    for _ in (early, late):  # who is still reading what is stored hears the end later than the manager tells it
        assert ended.acquire(timeout=60)
    assert early == late == [event.seq for event in manager.events(job.id)]


def test_a_listener_can_go_on_from_where_it_was(start: Start) -> None:
    manager = start(ScriptedRunner(ev.Stream(name="stdout", text="x"), Returned()))
    job = manager.submit(request())
    manager.wait(job.id, 30)
    heard: list[int] = []
    ended = threading.Event()

    def listen(batch: object) -> None:
        heard.extend(event.seq for event in batch)  # type: ignore[attr-defined]
        if heard[-1] == manager_last:
            ended.set()

    manager_last = manager.get(job.id).last_seq
    manager.subscribe(job.id, listen, after=3)
    assert ended.wait(30)
    assert heard == list(range(4, manager_last + 1))


def test_follow_ends_after_the_last_event(start: Start) -> None:
    manager = start(ScriptedRunner(ev.Stream(name="stdout", text="x"), Returned()))
    job = manager.submit(request())

    async def follow() -> list[int]:
        return [event.seq async for event in manager.follow(job.id)]

    assert asyncio.run(follow()) == [event.seq for event in manager.events(job.id)]


def test_waiting_too_short_says_how_the_job_stands(start: Start) -> None:
    runner = ScriptedRunner(Step.PAUSE, Returned())
    manager = start(runner)
    job = manager.submit(request())
    with pytest.raises(JobNotFinished, match=job.id):
        manager.wait(job.id, 0.01)
    runner.resume()
    assert manager.wait(job.id, 30).status is JobStatus.COMPLETED


def test_a_job_is_found_by_a_beginning_of_its_id_or_from_the_end(start: Start) -> None:
    manager = start(ScriptedRunner())
    ids = ["aa-1", "aa-2", "b"]
    for job_id in ids:
        manager.submit(request(), job_id=job_id)
        manager.wait(job_id, 30)
    assert manager.resolve("b").id == "b"
    assert manager.resolve("aa-2").id == "aa-2"
    assert manager.resolve("-1").id == "b"
    assert manager.resolve("-3").id == "aa-1"
    with pytest.raises(JobNotFound, match="Several"):
        manager.resolve("aa")
    for text in ("zz", "", "-4"):
        with pytest.raises(JobNotFound):
            manager.resolve(text)


def test_values_come_back_and_small_plain_ones_stand_in_the_event(start: Start) -> None:
    manager = start(ScriptedRunner(Value("x", "json", "list", sizes=(5,), body=b"[1,2]"), Returned()))
    job = manager.submit(request(outputs=("x",)))
    update = next(event for event in collect(manager, job.id) if isinstance(event, ev.OutputUpdate))
    assert (update.output_name, update.value, update.output_type) == ("x", [1, 2], "list")
    assert bytes(manager.values(job.id)["x"].body) == b"[1,2]"


def test_a_log_that_grows_too_long_is_cut_with_a_mark(start: Start) -> None:
    lines = [ev.Stream(name="stdout", text="x" * 100) for _ in range(20)]
    manager = start(ScriptedRunner(*lines, Returned()))
    job = manager.submit(request(max_log_bytes=500))
    events = collect(manager, job.id)
    assert sum(len(event.text) for event in events if isinstance(event, ev.Stream)) == 500
    marks = [event for event in events if isinstance(event, ev.Notification)]
    assert [mark.code for mark in marks] == ["NT-O01"]


def test_closing_the_manager_ends_every_job_and_closes_the_runners(settings: Settings) -> None:
    runner = ScriptedRunner(Step.HANG)
    manager = JobExecutionManager(settings, runners=[runner])
    last: dict[str, str] = {}
    for job in [manager.submit(request()) for _ in range(3)]:
        manager.subscribe(job.id, lambda batch, job_id=job.id: last.update({job_id: batch[-1].status}))  # type: ignore[misc]
    manager.close()
    assert runner.closed
    assert list(last.values()) == ["cancelled"] * 3
    with pytest.raises(InvalidRequest, match="closed"):
        manager.submit(request())


def test_two_thousand_jobs_leave_no_thread_behind(start: Start) -> None:
    manager = start(ScriptedRunner())
    manager.wait(manager.submit(request()).id, 30)
    before = threading.active_count()
    jobs = [manager.submit(request()) for _ in range(2000)]
    for job in jobs:
        manager.wait(job.id, 60)
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("field", "value"),
    [("cwd", Path("/tmp")), ("name", None), ("labels", {"a": object()}), ("env", {"A": 5}), ("grace_seconds", "2s")],
)
def test_a_field_of_a_wrong_type_is_refused_and_nothing_is_stored(start: Start, field: str, value: object) -> None:
    manager = start(ScriptedRunner())
    with pytest.raises(InvalidRequest, match="asked for"):
        manager.submit(request(**{field: value}))
    assert manager.find() == []
    assert manager.wait(manager.submit(request()).id, 30).status is JobStatus.COMPLETED


def test_runners_are_closed_also_where_no_job_ever_ran(settings: Settings) -> None:
    runner = ScriptedRunner()
    JobExecutionManager(settings, runners=[runner]).close()
    assert runner.closed

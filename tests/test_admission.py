"""Who may start next."""

from __future__ import annotations

from queue import Queue
from threading import Event

import pytest

from nodetool_jupyter.admission import Admission
from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import QueueFull
from nodetool_jupyter.frames import Returned
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.testing import ScriptedRunner, Step


def make(threads: int = 1, workflows: int = 2) -> Admission:
    return Admission(
        {"threads": threads, "workflows": workflows},
        {"threaded": ("threads", "workflows"), "subprocess": ("workflows",)},
    )


def join(admission: Admission, *jobs: tuple[str, str]) -> None:
    for job_id, runner in jobs:
        admission.reserve()
        admission.join(job_id, runner)


def test_jobs_start_first_in_first_out() -> None:
    admission = make(workflows=2)
    join(admission, *((f"j{n}", "subprocess") for n in range(4)))
    assert admission.admit() == ["j0", "j1"]
    assert admission.admit() == []
    admission.done("subprocess")
    assert admission.admit() == ["j2"]


def test_a_full_pool_of_one_runner_does_not_hold_up_another() -> None:
    admission = make(threads=1, workflows=3)
    join(admission, ("t1", "threaded"), ("t2", "threaded"), ("s1", "subprocess"))
    assert admission.admit() == ["t1", "s1"]
    admission.done("threaded")
    assert admission.admit() == ["t2"]


def test_both_runners_share_the_workflow_gate() -> None:
    admission = make(threads=4, workflows=2)
    join(admission, ("s1", "subprocess"), ("t1", "threaded"), ("t2", "threaded"))
    assert admission.admit() == ["s1", "t1"]


def test_a_runner_without_gates_always_starts() -> None:
    admission = make(workflows=1)
    join(admission, ("s1", "subprocess"), ("s2", "subprocess"), ("other", "scripted"))
    assert admission.admit() == ["s1", "other"]


def test_jobs_behind_a_full_gate_are_not_looked_at() -> None:
    class Looks(dict[str, tuple[str, ...]]):
        count = 0

        def get(self, *arguments: object) -> tuple[str, ...]:  # type: ignore[override]
            self.count += 1
            return super().get(*arguments)  # type: ignore[arg-type, return-value]

    admission = make(threads=1, workflows=9)
    looks = admission._passes = Looks(admission._passes)  # type: ignore[assignment]
    join(admission, *((f"t{n}", "threaded") for n in range(100)), ("s1", "subprocess"))
    assert admission.admit() == ["t0", "s1"]
    assert looks.count < 10


def test_a_job_that_left_is_not_admitted_and_makes_room_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodetool_jupyter.admission.QUEUE_LIMIT", 1)
    admission = make()
    join(admission, ("s1", "subprocess"))
    with pytest.raises(QueueFull):
        admission.reserve()
    admission.leave("s1")
    admission.leave("s1")
    join(admission, ("s2", "subprocess"))
    assert admission.admit() == ["s2"]


class Scarce(ScriptedRunner):
    """Its jobs want what somebody else has."""

    reserves = "a thing"
    asked = 0

    def wants(self, job: Job) -> str:
        return job.request.name

    def reserve(self, job: Job) -> bool:
        self.asked += 1
        return False

    def unreserve(self, job_id: str) -> None:
        raise AssertionError("none has it")


def test_what_one_job_can_not_have_is_not_asked_for_the_next_that_wants_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodetool_jupyter.engine._ASK_AGAIN_SECONDS", 3600)
    runner = Scarce(name="subprocess")
    with JobExecutionManager(settings, runners=[runner]) as manager:
        for wanted, asked in (("one", 1), ("one", 2), ("another", 4), ("one", 6)):
            manager.submit(JobRequest(work=CodeWork("1"), runner="subprocess", name=wanted))
            manager.call_later(0, (queued := Event()).set)
            assert queued.wait(30)
            assert runner.asked == asked


@pytest.mark.parametrize(("places", "said"), [("1", "the only place"), ("2", "one of 2 places")])
def test_a_queued_job_tells_what_it_waits_for_from_its_first_event_on(
    settings: Settings, places: str, said: str
) -> None:
    runner = ScriptedRunner(Step.PAUSE, Returned(), name="subprocess")
    with JobExecutionManager(
        Settings({**settings.environ, "MAX_WORKFLOW_THREADS": places}), runners=[runner]
    ) as manager:
        running = [manager.submit(JobRequest(work=CodeWork("1"), runner="subprocess")) for _ in range(int(places))]
        waiting = manager.submit(JobRequest(work=CodeWork("1"), runner="subprocess"))
        told: Queue[str] = Queue()
        manager.subscribe(waiting.id, lambda batch: told.put(manager.waits_for(waiting.id)))
        assert told.get(timeout=30) == f"waits for {said} (MAX_WORKFLOW_THREADS)"
        assert manager.waits_for("another") == ""
        runner.resume()
        for job in (*running, waiting):
            manager.wait(job.id, 30)
            assert manager.waits_for(job.id) == ""

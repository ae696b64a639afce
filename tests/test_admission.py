"""Who may start next."""

from __future__ import annotations

import pytest

from nodetool_jupyter.admission import Admission
from nodetool_jupyter.errors import QueueFull


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

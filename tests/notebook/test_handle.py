"""`run` and `JobHandle` in plain Python."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from nodetool_jupyter import JobHandle, Limits, run
from nodetool_jupyter.errors import (
    InvalidRequest,
    JobCancelled,
    JobFailed,
    JobNotFinished,
    OutputMissing,
    RunnerUnavailable,
    ValueCannotTravel,
)
from nodetool_jupyter.events import Display, Exit, JobUpdate, Stream
from nodetool_jupyter.frames import Raised, Returned, Value
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, Profile, ResourceLimits
from nodetool_jupyter.notebook.handle import decode_value
from nodetool_jupyter.notebook.session import Session
from nodetool_jupyter.testing import ScriptedRunner, Step
from tests.conftest import HANG_GUARD_SECONDS

GUARD = HANG_GUARD_SECONDS


@pytest.fixture(params=["threaded", "subprocess"])
def runner(request: pytest.FixtureRequest, plain_session: Session) -> str:
    return str(request.param)


def test_what_was_handed_back_with_output_need_not_be_a_variable_at_the_end(runner: str) -> None:
    def work(n: int) -> None:
        import nodetool_jupyter

        nodetool_jupyter.output("twice", n * 2)

    job = run(work, runner=runner, inputs={"n": 4}, outputs=["twice"])
    job.result(GUARD)
    assert dict(job.outputs) == {"twice": 8}


def test_code_finds_its_inputs_and_brings_its_outputs_back(runner: str) -> None:
    job = run("y = x + 1\nprint('hi')\ny * 2", runner=runner, inputs={"x": 20}, outputs=["y"])
    assert job.result(GUARD) == 42
    assert dict(job.outputs) == {"y": 21}
    assert job.logs() == "hi\n"
    assert job.done()
    assert not job.running()
    assert not job.cancelled()
    assert job.exception() is None


def test_a_function_is_called_with_the_inputs_and_its_value_is_the_result(runner: str) -> None:
    factor = 3

    def work(x: int, y: int = 1) -> dict[str, int]:
        return {"value": x * factor + y}

    job = run(work, runner=runner, inputs={"x": 5})
    assert job.result(GUARD) == {"value": 16}
    assert job.job.request.name == "work"


def test_an_async_function_is_awaited(runner: str) -> None:
    async def work(x: int) -> int:
        await asyncio.sleep(0)
        return x

    assert run(work, runner=runner, inputs={"x": 5}).result(GUARD) == 5


def test_a_task_without_an_event_loop_is_told_how_the_cell_gets_one(runner: str) -> None:
    code = "import asyncio\nasync def work(): print('worked')\nasyncio.create_task(work())\n"
    error = run("import asyncio\nasyncio.get_running_loop()", runner=runner).exception(GUARD)
    assert "add the line `await asyncio.sleep(0)`" in str(error)
    job = run(code + "await asyncio.sleep(0)", runner=runner)
    assert job.exception(GUARD) is None
    assert job.logs() == "worked\n"


def test_a_result_is_the_same_object_each_time(runner: str) -> None:
    job = run("[1, 2]", runner=runner)
    assert job.result(GUARD) is job.result(GUARD)


def test_what_fails_raises_its_cause(runner: str) -> None:
    job = run("raise ValueError('no')", runner=runner)
    with pytest.raises(JobFailed, match="ValueError: no") as caught:
        job.result(GUARD)
    assert caught.value.reason == "error"
    assert "raise ValueError" in "\n".join(caught.value.traceback)
    assert isinstance(job.exception(), JobFailed)


def test_a_job_without_a_value_has_none(runner: str) -> None:
    assert run("x = 1", runner=runner).result(GUARD) is None


def test_an_output_that_is_not_there_is_named(runner: str) -> None:
    job = run("1", runner=runner)
    job.wait(GUARD)
    with pytest.raises(OutputMissing, match=r"has no output 'z'.*brought back: nothing"):
        _ = job.outputs["z"]


def test_a_value_that_can_not_come_back_is_not_taken_for_none(plain_session: Session) -> None:
    job = run("import threading\nthreading.Lock()", runner="subprocess")
    with pytest.raises(OutputMissing, match=r"The value of the last expression \(_thread\.lock, .* can't be pickled"):
        job.result(GUARD)
    assert [note.severity for note in job.view().notes] == ["info"]


def test_a_value_that_is_refused_on_its_way_out_is_one_sentence_without_frames_of_a_library(
    plain_session: Session,
) -> None:
    job = run("import threading\nlock = threading.Lock()", runner="subprocess", outputs=["lock"])
    error = job.exception(GUARD)
    assert isinstance(error, JobFailed)
    assert "cloudpickle" not in "\n".join(error.traceback)


def test_a_variable_is_a_secret_or_none(plain_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "of the kernel")
    with pytest.raises(InvalidRequest, match="KEY is given with -e and with --secret"):
        run("1", runner="subprocess", env={"KEY": "open"}, secrets=["KEY"])
    assert plain_session.manager.find() == []


def test_a_value_that_is_too_large_is_said_and_names_the_option(plain_session: Session) -> None:
    job = run("'x' * 5_000", runner="subprocess", max_transfer_bytes=1000)
    with pytest.raises(OutputMissing, match=r"The value of the last expression \(str, .* raise --max-transfer"):
        job.result(GUARD)
    assert [note.code for note in job.view().notes] == ["NT-O03"]
    job = run("y = 'x' * 5_000", runner="subprocess", outputs=["y"], max_transfer_bytes=1000)
    job.wait(GUARD)
    with pytest.raises(OutputMissing, match=r"no output 'y'.* raise --max-transfer"):
        _ = job.outputs["y"]


def test_an_open_file_is_refused_before_the_start(plain_session: Session) -> None:
    with open(__file__) as file, pytest.raises(ValueCannotTravel, match=r"Variable 'log' \(_io\.TextIOWrapper"):
        run("log", runner="subprocess", inputs={"log": file})
    assert plain_session.manager.find() == []


def test_what_can_not_travel_is_refused(plain_session: Session) -> None:
    with pytest.raises(ValueCannotTravel, match="Variable 'lock'"):
        run("lock", runner="subprocess", inputs={"lock": threading.Lock()})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"memory": "2g"}, "run\\(\\) has no option 'memory'"),
        ({"inputs": {"a b": 1}}, "Input 'a b'"),
        ({"profile": "safe"}, "profile 'safe'"),
        ({"inputs": {"class": 1}}, "Input 'class'"),
        ({"runner": "moon"}, "There is no runner 'moon'"),
        ({"outputs": ["1x"]}, "Output '1x' is not a variable's name"),
        ({"inputs": {1: 2}}, "Input 1"),
        ({"limits": {"memory": "2g"}}, "limits takes Limits"),
        ({"grace_seconds": -1}, "grace_seconds=-1 is not above zero"),
        ({"max_transfer_bytes": 0}, "max_transfer_bytes=0 is not above zero"),
        ({"secrets": "NOT_THERE", "runner": "subprocess"}, "--secret NOT_THERE"),
        ({"limits": Limits(open_files=1), "runner": "subprocess"}, "open_files=1 is too little for Python to start"),
    ],
)
def test_a_mistake_is_named(plain_session: Session, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        run("1", **arguments)
    with pytest.raises(InvalidRequest, match="Line 1 of the cell"):
        run("x = = 1")
    with pytest.raises(InvalidRequest, match="not int"):
        run(5)  # type: ignore[arg-type]


def test_one_text_names_outputs_as_on_the_line(plain_session: Session) -> None:
    job = run("ab = 1; c = 2", runner="subprocess", outputs="ab, c")
    assert (job.result(), dict(job.outputs)) == (None, {"ab": 1, "c": 2})


def test_limits_are_written_as_on_the_line() -> None:
    assert Limits(memory="2g", timeout="5m", cpus=1.5, pids=3, open_files=10) == ResourceLimits(
        memory_bytes=2 << 30, wall_seconds=300, cpus=1.5, pids=3, open_files=10
    )
    with pytest.raises(InvalidRequest, match="memory '2x'"):
        Limits(memory="2x")
    with pytest.raises(InvalidRequest, match="memory '1000' is too little"):
        Limits(memory=1000)
    with pytest.raises(InvalidRequest, match="no limit 'gpus'"):
        Limits(gpus=1)


def hanging(with_runners: Callable[..., Session], *more: Any, **options: Any) -> JobHandle:
    runner = ScriptedRunner(Stream(name="stdout", text="begun\n"), Step.PAUSE, *more, Returned(), **options)
    with_runners(runner)
    return run("1", runner="scripted")


def test_asking_too_early_says_so(with_runners: Callable[..., Session]) -> None:
    job = hanging(with_runners)
    with pytest.raises(JobNotFinished):
        job.result(timeout=0.01)
    with pytest.raises(JobNotFinished):
        _ = job.outputs["x"]
    assert not job.done()


def test_a_cancelled_job_says_that_it_was(with_runners: Callable[..., Session]) -> None:
    job = hanging(with_runners)
    assert job.cancel()
    with pytest.raises(JobCancelled, match="Cancelled"):
        job.result(GUARD)
    assert job.cancelled()
    assert not job.cancel()


def test_a_handle_can_be_awaited_and_followed(with_runners: Callable[..., Session]) -> None:
    runner = ScriptedRunner(
        Stream(name="stdout", text="a"), Step.PAUSE, Value("", "json", sizes=(1,), body=b"7"), Returned()
    )
    with_runners(runner)
    job = run("1", runner="scripted")

    async def main() -> tuple[Any, list[str]]:
        async def follow() -> list[str]:
            return [event.status async for event in job.events() if isinstance(event, JobUpdate)]

        following = asyncio.ensure_future(follow())
        runner.resume()
        return await job, await following

    assert asyncio.run(main()) == (7, ["queued", "starting", "running", "completed"])
    assert asyncio.run(_await(job)) == 7


async def _await(job: JobHandle) -> Any:
    return await job


def test_a_callback_may_ask_for_the_result(with_runners: Callable[..., Session]) -> None:
    runner = ScriptedRunner(Step.PAUSE, Value("", "json", sizes=(1,), body=b"7"), Returned())
    with_runners(runner)
    job = run("1", runner="scripted")
    heard: list[Any] = []
    told = threading.Semaphore(0)

    def callback(handle: JobHandle) -> None:
        heard.append(handle.result(0))
        told.release()

    job.add_done_callback(callback)
    runner.resume()
    assert told.acquire(timeout=GUARD)
    job.add_done_callback(callback)
    assert told.acquire(timeout=GUARD)
    assert heard == [7, 7]


def test_a_rerun_is_a_new_job_with_other_limits(with_runners: Callable[..., Session]) -> None:
    runner = ScriptedRunner()
    with_runners(runner)
    job = run("x", runner="scripted", inputs={"x": 1}, limits=Limits(memory="1g", cpus=2))
    again = job.rerun(memory="4g")
    again.wait(GUARD)
    assert again.id != job.id
    assert again.job.request.rerun_of == job.id
    assert again.job.request.limits == Limits(memory="4g", cpus=2)
    assert [value.name for value in runner.parcels[1].inputs] == ["x"]


def test_a_refused_job_leaves_no_row(with_runners: Callable[..., Session]) -> None:
    session = with_runners(ScriptedRunner(refuse=RunnerUnavailable("scripted", "it is tired", "Wait")))
    with pytest.raises(RunnerUnavailable, match="it is tired"):
        run("1", runner="scripted")
    assert session.manager.find() == []


def test_the_repr_is_the_same_in_every_noninteractive_run(with_runners: Callable[..., Session]) -> None:
    with_runners(ScriptedRunner())
    job = run("1", runner="scripted", name="train")
    job.wait(GUARD)
    assert repr(job) == "<JobHandle train · scripted · completed>"
    assert job.id not in job._repr_html_()


def test_the_repr_has_id_and_time_otherwise(
    with_runners: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODETOOL_NONINTERACTIVE", "0")
    with_runners(ScriptedRunner(Raised("E", "bad"), exit=Exit(code=1)))
    job = run("1", runner="scripted", name="train")
    job.wait(GUARD)
    assert repr(job).startswith(f"<JobHandle {job.id[:8]} ✘ train · scripted · failed")


def a_job(profile: Profile, runner: str) -> Job:
    request = JobRequest(work=CodeWork("1"), runner=runner, profile=profile)
    return Job(id="1", user="me", owner="o", request=request, created_at=time.time())


PICKLED = Value("x", "pickle", "int", sizes=(5,), body=b"\x80\x04K\x07.")


@pytest.mark.parametrize(
    ("profile", "runner"),
    [(Profile.UNTRUSTED, "subprocess"), (Profile.DEFAULT, "docker"), (Profile.UNTRUSTED, "docker")],
)
def test_pickles_are_opened_by_profile_and_runner_and_not_because_a_job_sent_one(profile: Profile, runner: str) -> None:
    with pytest.raises(OutputMissing, match="--profile trusted"):
        decode_value(PICKLED, a_job(profile, runner))
    assert decode_value(PICKLED, a_job(Profile.DEFAULT, "subprocess")) == 7
    assert decode_value(PICKLED, a_job(Profile.TRUSTED, "docker")) == 7


def test_bytes_that_are_no_value_are_an_output_missing() -> None:
    broken = Value("x", "json", "int", sizes=(1,), body=b"{")
    with pytest.raises(OutputMissing, match="can't be unpacked here"):
        decode_value(broken, a_job(Profile.DEFAULT, "subprocess"))


def test_a_shown_result_without_a_value_is_missing(with_runners: Callable[..., Session]) -> None:
    with_runners(ScriptedRunner(Display(data={"text/plain": "<x>"}, result=True), Returned()))
    with pytest.raises(OutputMissing):
        run("1", runner="scripted").result(GUARD)

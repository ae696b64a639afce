"""What every runner promises, whatever kind of place it is."""

from __future__ import annotations

import contextvars
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import anyio
import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.events import Exit, Isolation, Stream
from nodetool_jupyter.frames import Raised, Report, Returned, Value
from nodetool_jupyter.jobs import LIMIT_NAMES, CodeWork, Job, JobRequest, Profile
from nodetool_jupyter.runners.base import Parcel, Runner, Worker
from nodetool_jupyter.runners.docker.leftovers import OWNER_LABEL
from nodetool_jupyter.runners.docker.runner import DockerRunner
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from nodetool_jupyter.runners.threaded import ThreadedRunner
from nodetool_jupyter.testing import ScriptedRunner, Step
from tests.components import require
from tests.engine import images

CODE = {
    "returns": "print('hello')\nx = 6 * 7",
    "raises": "raise ValueError('no')",
    "hangs": "import time\nprint('started')\nwhile True:\n    time.sleep(0.005)",
}
SCRIPTS: dict[str, tuple[Report | Step, ...]] = {
    "returns": (Stream(name="stdout", text="hello\n"), Value("x", "json", "int", sizes=(2,), body=b"42"), Returned()),
    "raises": (Raised("ValueError", "no"),),
    "hangs": (Stream(name="stdout", text="started\n"), Step.HANG),
}


@dataclass(frozen=True)
class Outcome:
    reports: list[Report]
    exit: Exit
    isolation: Isolation


def scripted(kind: str) -> Runner:
    return ScriptedRunner(*SCRIPTS[kind], exit=Exit(code=1 if kind == "raises" else 0))


def docker(kind: str, *, standby: bool = False) -> Runner:
    return DockerRunner(os.environ, labels={OWNER_LABEL: uuid4().hex}, standby=standby)


@dataclass(frozen=True)
class Make:
    """Makes a runner for one kind of work, which then runs in this profile.

    waits: a job before it leaves something ready, which the work is to find.
    """

    runner: Callable[[str], Runner]
    profile: Profile = Profile.DEFAULT
    waits: bool = False


MAKERS = {
    "scripted": Make(scripted),
    "threaded": Make(lambda kind: ThreadedRunner()),
    "subprocess": Make(lambda kind: SubprocessRunner()),
    "warm": Make(lambda kind: SubprocessRunner(warm=True)),
    "sandboxed": Make(lambda kind: SubprocessRunner(warm=True), Profile.UNTRUSTED),
    "docker": Make(docker),
    "docker untrusted": Make(docker, Profile.UNTRUSTED),
    "docker standby": Make(lambda kind: docker(kind, standby=True), waits=True),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "sandboxed":
        require("bubblewrap", shutil.which("bwrap"), "apt-get install bubblewrap")
    if request.param.startswith("docker"):
        request.getfixturevalue("engine")
    return MAKERS[request.param]


async def drive(
    runner: Runner,
    kind: str,
    on_report: Callable[[Worker, Report], object] = lambda worker, report: None,
    *,
    profile: Profile = Profile.DEFAULT,
) -> Outcome:
    outputs = ("x",) if kind == "returns" else ()
    request = JobRequest(
        work=CodeWork(CODE[kind]),
        runner=runner.name,
        profile=profile,
        outputs=outputs,
        container=ContainerOptions(image=images.IMAGE),
    )
    job = Job(id=uuid4().hex, user="me", owner="tests", request=request, created_at=time.time())
    runner.check(request)
    parcel = Parcel(
        namespace={}, environ=dict(os.environ), sys_path=tuple(sys.path), context=contextvars.copy_context()
    )
    reports: list[Report] = []
    with anyio.fail_after(60):
        async with runner.launch(job, parcel) as worker:
            isolation = worker.isolation()
            async for batch in worker.reports():
                for report in batch:
                    reports.append(report)
                    on_report(worker, report)
            exit_event = await worker.wait()
            assert await worker.wait() == exit_event
    return Outcome(reports, exit_event, isolation)


def outcome(
    make: Make,
    kind: str,
    on_report: Callable[[Worker, Report], object] = lambda worker, report: None,
) -> Outcome:
    async def main() -> Outcome:
        runner = make.runner(kind)
        try:
            if make.waits:
                await drive(runner, "returns", profile=make.profile)
                with anyio.fail_after(60):
                    while not runner._pool._waiting:  # type: ignore[attr-defined]
                        await anyio.sleep(0.01)
            return await drive(runner, kind, on_report, profile=make.profile)
        finally:
            await runner.close()

    return anyio.run(main)


def test_work_that_returns_ends_with_a_result_and_exit_0(make: Make) -> None:
    found = outcome(make, "returns")
    assert [type(report) for report in found.reports if isinstance(report, Returned | Raised)] == [Returned]
    assert found.exit.code == 0
    assert found.exit.cause == ""


def test_what_the_work_prints_and_the_outputs_come_before_the_result(make: Make) -> None:
    reports = outcome(make, "returns").reports
    end = next(n for n, report in enumerate(reports) if isinstance(report, Returned))
    assert "".join(r.text for r in reports[:end] if isinstance(r, Stream) and r.name == "stdout") == "hello\n"
    assert [r.name for r in reports[:end] if isinstance(r, Value) and r.name] == ["x"]


def test_work_that_raises_says_what_and_is_no_success(make: Make) -> None:
    found = outcome(make, "raises")
    ends = [report for report in found.reports if isinstance(report, Returned | Raised)]
    assert [(type(end), end.ename, end.evalue) for end in ends if isinstance(end, Raised)] == [
        (Raised, "ValueError", "no")
    ]
    assert len(ends) == 1
    assert found.exit.code != 0


def test_a_stop_ends_the_work_however_often_it_is_asked_for(make: Make) -> None:
    def stop(worker: Worker, report: Report) -> None:
        if isinstance(report, Stream):
            for _ in range(3):
                worker.stop(5.0)

    found = outcome(make, "hangs", stop)
    assert not any(isinstance(report, Returned) for report in found.reports)
    assert found.exit.sent
    assert found.exit.code != 0


def test_a_stop_after_the_end_changes_nothing(make: Make) -> None:
    def stop(worker: Worker, report: Report) -> None:
        if isinstance(report, Returned):
            worker.stop(5.0)

    found = outcome(make, "returns", stop)
    assert any(isinstance(report, Returned) for report in found.reports)


def test_isolation_says_which_limits_are_held(make: Make) -> None:
    found = outcome(make, "returns").isolation
    assert found.runner == make.runner("returns").name
    assert set(found.held) <= set(LIMIT_NAMES)


def test_limits_are_held_by_name(make: Make) -> None:
    runner = make.runner("returns")
    assert set(runner.holds()) <= set(LIMIT_NAMES)
    anyio.run(runner.close)


def test_workers_of_one_runner_run_side_by_side(make: Make) -> None:
    async def main() -> list[Outcome]:
        runner = make.runner("returns")
        found: list[Outcome] = []

        async def one() -> None:
            found.append(await drive(runner, "returns", profile=make.profile))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(one)
        await runner.close()
        return found

    assert [found.exit.code for found in anyio.run(main)] == [0] * 8

"""Interpreters that wait: each used once, and never a difference but the time that a start takes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import psutil
import pytest

from nodetool_jupyter.events import Display
from nodetool_jupyter.frames import Returned
from nodetool_jupyter.jobs import ResourceLimits
from nodetool_jupyter.runners.base import Worker
from nodetool_jupyter.runners.process_supervisor import SupervisorLink
from nodetool_jupyter.runners.process_warmth import Warmth
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from tests.runners.processes import HANG_GUARD_SECONDS, Outcome, Place, ended, once_printed

T = TypeVar("T")
FORKED = "forked from a warm parent"


def session(place: Place, work: Callable[[SubprocessRunner], Awaitable[T]]) -> T:
    """Something with a runner that keeps interpreters waiting; none is left at the end."""

    async def main() -> T:
        runner = SubprocessRunner(use_cgroups=place.grouped, warm=True)
        supervised: list[psutil.Process] = []
        with anyio.fail_after(HANG_GUARD_SECONDS):
            try:
                result = await work(runner)
                supervised = [child for link in runner._links for child in psutil.Process(link.pid).children(True)]
                return result
            finally:
                await runner.close()
                assert [child.pid for child in supervised if child.is_running()] == []

    return anyio.run(main)


async def warm(place: Place, runner: SubprocessRunner, code: str = "1", **fields: object) -> Outcome:
    """The outcome of the first job that got a waiting interpreter."""
    while True:
        found = await place.drive(runner, code, **fields)  # type: ignore[arg-type]
        if found.isolation.details["start"] == FORKED:
            return found


async def started(place: Place, runner: SubprocessRunner, code: str = "1", **fields: object) -> str:
    found = await place.drive(runner, code, **fields)  # type: ignore[arg-type]
    return str(found.isolation.details["start"])


def test_a_waiting_interpreter_takes_a_job_as_a_new_one_does(place: Place) -> None:
    code = (
        "import os, sys\n"
        "print(os.getsid(0) == os.getpid(), os.environ['NODETOOL_JOB_ID'])\n"
        "print(os.environ['TMPDIR'] != '/tmp', os.getcwd())\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')), sys.argv, __name__, sys.path == GIVEN)"
    )
    code = code.replace("GIVEN", repr(sys.path))

    async def both(runner: SubprocessRunner) -> tuple[str, str]:
        forked = await warm(place, runner, code)
        fresh = await place.drive(runner, code, fresh=True)
        assert fresh.isolation.details["start"] == "new interpreter"
        assert place.jobs[-2] in forked.text()
        return forked.text().replace(place.jobs[-2], "ID"), fresh.text().replace(place.jobs[-1], "ID")

    forked, fresh = session(place, both)
    assert forked == fresh


def test_each_interpreter_is_used_once_and_has_its_own_random_numbers(plain: Place) -> None:
    code = "import os, random, numpy.random\nprint(os.getpid(), random.random(), numpy.random.random())"

    async def several(runner: SubprocessRunner) -> list[list[str]]:
        return [(await warm(plain, runner, code)).text().split() for _ in range(4)]

    for seen in zip(*session(plain, several), strict=True):
        assert len(set(seen)) == 4


def test_jobs_for_which_no_interpreter_waits_get_the_next_that_is_forked(place: Place) -> None:
    async def several(runner: SubprocessRunner) -> list[str]:
        await warm(place, runner)
        found: list[str] = []

        async def one() -> None:
            found.append(await started(place, runner))

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(one)
        return found

    assert session(place, several) == [FORKED] * 6


async def until_none_waits(place: Place, runner: SubprocessRunner) -> psutil.Process:
    """The warm parent, suspended, when each interpreter that it had forked was used."""
    await warm(place, runner)
    [link] = runner._links
    parent = next(child for child in psutil.Process(link.pid).children() if os.getsid(child.pid) == child.pid)
    parent.suspend()
    while sum(os.getsid(child.pid) == parent.pid for child in psutil.Process(link.pid).children()) > 1:
        await place.drive(runner, "1")
    return parent


def test_a_job_that_waits_for_an_interpreter_can_be_called_off(plain: Place) -> None:
    async def call_off(runner: SubprocessRunner) -> None:
        await until_none_waits(plain, runner)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await plain.drive(runner, "1")

    session(plain, call_off)


def test_a_job_that_waits_for_an_interpreter_starts_anew_when_the_warm_parent_dies(plain: Place) -> None:
    async def die(runner: SubprocessRunner) -> list[str]:
        parent = await until_none_waits(plain, runner)
        found: list[str] = []

        async def one() -> None:
            found.append(await started(plain, runner))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await anyio.lowlevel.checkpoint()
            parent.kill()
        return found

    assert session(plain, die) == ["new interpreter"]


def test_what_jobs_import_is_imported_already_for_later_ones(plain: Place) -> None:
    code = "import sys\nprint('colorsys' in sys.modules)\nimport colorsys"

    async def until_known(runner: SubprocessRunner) -> None:
        while "True" not in (await warm(plain, runner, code)).text():
            pass

    session(plain, until_known)


def test_a_waiting_interpreter_that_has_imported_pyplot_shows_figures(plain: Place) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nNone"

    async def twice(runner: SubprocessRunner) -> Outcome:
        await plain.drive(runner, code)
        return await warm(plain, runner, code)

    shown = [report for report in session(plain, twice).reports if isinstance(report, Display)]
    assert [sorted(report.data) for report in shown] == [["image/png", "text/plain"]]


def test_modules_that_people_edit_are_not_imported_ahead(plain: Place, tmp_path: Path) -> None:
    (tmp_path / "edited.py").write_text("import os\npid = os.getpid()")
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport os, edited\nprint(edited.pid == os.getpid())"

    async def several(runner: SubprocessRunner) -> list[str]:
        return [(await warm(plain, runner, code)).text().strip() for _ in range(3)]

    assert session(plain, several) == ["True"] * 3


def test_what_cannot_be_imported_ahead_is_left_to_the_jobs(plain: Place) -> None:
    code = "try:\n    import not_there_at_all\nexcept ImportError:\n    import asyncio.runners\nprint('fine')"

    async def several(runner: SubprocessRunner) -> list[str]:
        return [(await warm(plain, runner, code)).text() for _ in range(3)]

    assert session(plain, several) == ["fine\n"] * 3


def test_another_environment_means_a_new_interpreter(plain: Place) -> None:
    async def two(runner: SubprocessRunner) -> list[str]:
        await warm(plain, runner)
        other = {**os.environ, "OMP_NUM_THREADS": "1"}
        return [
            await started(plain, runner, environ=other, env={"OMP_NUM_THREADS": "1"}),
            (await warm(plain, runner)).isolation.details["start"],
        ]

    assert session(plain, two) == ["new interpreter", FORKED]


def test_limits_and_stops_hold_for_a_forked_interpreter(grouped: Place) -> None:
    async def one(runner: SubprocessRunner) -> Outcome:
        await warm(grouped, runner)
        limits = ResourceLimits(memory_bytes=256 << 20)
        return await warm(grouped, runner, "x = bytearray(512 << 20)", limits=limits)

    found = session(grouped, one)
    assert found.exit.cause == "out_of_memory"


def test_a_warm_parent_that_dies_costs_no_job(place: Place) -> None:
    async def kill(runner: SubprocessRunner) -> list[Outcome]:
        await warm(place, runner)
        [link] = runner._links
        for child in psutil.Process(link.pid).children():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        return [await place.drive(runner, "6 * 7") for _ in range(3)]

    outcomes = session(place, kill)
    assert all(isinstance(outcome.terminal, Returned) for outcome in outcomes)


def test_a_warm_parent_that_died_is_made_again(place: Place) -> None:
    async def kill(runner: SubprocessRunner) -> Outcome:
        await warm(place, runner)
        [link] = runner._links
        for child in psutil.Process(link.pid).children():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        while await started(place, runner) == FORKED:  # one that waited may have outlived its parent by a moment
            pass
        return await warm(place, runner)

    assert isinstance(session(place, kill).terminal, Returned)


def test_waiting_interpreters_die_with_the_supervisor(place: Place) -> None:
    async def kill(runner: SubprocessRunner) -> list[psutil.Process]:
        await warm(place, runner)
        [link] = runner._links
        waiting = psutil.Process(link.pid).children(True)
        os.kill(link.pid, signal.SIGKILL)
        while not link.lost:
            await anyio.lowlevel.checkpoint()
        await place.drive(runner, "1")  # its supervisor removes what the killed one left
        return waiting

    waiting = session(place, kill)
    assert waiting
    _, alive = psutil.wait_procs(waiting, timeout=HANG_GUARD_SECONDS)
    assert alive == []


@pytest.mark.parametrize("leave", ["pass", "os.setsid()"])
def test_what_a_forked_interpreter_forks_dies_with_the_supervisor_too(place: Place, leave: str) -> None:
    code = f"import os, time\nif os.fork() == 0:\n    {leave}\n    time.sleep(1000)\n"
    code += "print('up', flush=True)\ntime.sleep(1000)"

    async def kill(runner: SubprocessRunner) -> tuple[Outcome, list[psutil.Process]]:
        forked: list[psutil.Process] = []

        def up(worker: Worker) -> None:
            if worker.isolation().details["start"] != FORKED:  # none waited at this moment: the next job's turn
                worker.stop(0.0)
                return
            forked.extend(psutil.Process(int(worker.isolation().details["pid"])).children())
            os.kill(runner._links[-1].pid, signal.SIGKILL)

        while not forked:
            lost = await place.drive(runner, code, on_report=once_printed("up", up))
        await place.drive(runner, "1")  # its supervisor removes what the killed one left
        return lost, forked

    lost, forked = session(place, kill)
    assert (lost.exit.cause, lost.isolation.details["start"]) == ("supervisor_lost", FORKED)
    assert len(forked) == 1
    assert [child for child in forked if not ended(child)] == []


def test_a_waiting_interpreter_that_was_killed_is_not_given_a_job(plain: Place) -> None:
    async def kill(runner: SubprocessRunner) -> Outcome:
        await warm(plain, runner)
        [link] = runner._links
        for child in psutil.Process(link.pid).children():
            with suppress(ProcessLookupError):
                if os.getsid(child.pid) != child.pid:
                    os.kill(child.pid, signal.SIGKILL)
        return await warm(plain, runner, "6 * 7")

    assert isinstance(session(plain, kill).terminal, Returned)


def test_a_warm_parent_is_made_anew_only_for_a_reason() -> None:
    from nodetool_jupyter.jobs import CodeWork, Job, JobRequest
    from nodetool_jupyter.runners.base import Parcel

    warmth = Warmth(["python"])
    parcel = Parcel(sys_path=("/a",))

    def learn(code: str, environ: dict[str, str], **fields: object) -> bool:
        request = JobRequest(work=CodeWork(code), **fields)  # type: ignore[arg-type]
        job = Job(id="j", user="me", owner="o", request=request, created_at=1.0)
        return warmth.learn(job, environ, parcel) is not None

    assert learn("import os", {"A": "1", "TMPDIR": "/t/1"})
    assert not learn("import os", {"A": "1", "TMPDIR": "/t/2"})
    assert not learn("x = 1", {"A": "2"}, env={"A": "2"})
    assert warmth.key_for({"A": "2"}, parcel) == ""
    assert warmth.key_for({"A": "1"}, parcel)
    assert learn("from json import decoder", {"A": "1"})
    assert learn("x = 1", {"A": "3"})
    assert not learn("syntax error here", {"A": "3"})


def test_what_was_written_to_the_original_streams_is_not_lost(plain: Place) -> None:
    async def one(runner: SubprocessRunner) -> str:
        return (await warm(plain, runner, "import sys\nsys.__stdout__.write('original')")).text()

    assert session(plain, one) == "original"


def test_the_supervisor_has_nothing_of_the_kernels_environment(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATE_SECRET", "found-it")
    code = "import os\nprint('found-it' in open(f'/proc/{os.getppid()}/environ').read())"

    async def one(runner: SubprocessRunner) -> str:
        return (await plain.drive(runner, code, environ={})).text()

    assert session(plain, one) == "False\n"


def test_the_end_of_an_old_warm_parent_is_not_taken_for_that_of_the_new_one(
    plain: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_warm, orders = SupervisorLink.keep_warm, list[dict[str, Any]]()

    def keep(link: SupervisorLink, order: dict[str, Any]) -> None:
        orders.append(order)
        keep_warm(link, order)

    monkeypatch.setattr(SupervisorLink, "keep_warm", keep)

    async def replace(runner: SubprocessRunner) -> Outcome:
        await plain.drive(runner, "1")
        [link] = runner._links
        supervisor = psutil.Process(link.pid)

        async def until_there_are(count: int) -> None:
            while sum("warm" in child.cmdline() for child in supervisor.children()) < count:
                await anyio.lowlevel.checkpoint()

        await until_there_are(1)
        supervisor.suspend()
        keep_warm(link, {**orders[0], "key": "new"})
        await until_there_are(3)  # it and two that wait: now both have something to say to the supervisor
        supervisor.resume()
        assert runner._warmth is not None
        runner._warmth._key = "new"
        monkeypatch.setattr(runner._warmth, "learn", lambda *_: None)
        return await warm(plain, runner)

    assert isinstance(session(plain, replace).terminal, Returned)


def test_a_forked_interpreter_takes_a_job_that_may_open_few_files(place: Place) -> None:
    async def one(runner: SubprocessRunner) -> Outcome:
        await warm(place, runner)
        return await warm(place, runner, limits=ResourceLimits(open_files=12))

    assert isinstance(session(place, one).terminal, Returned)

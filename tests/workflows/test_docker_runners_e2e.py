"""The same cell in each runner, in a real kernel; many containers at once; much output; an engine that goes on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nodetool_jupyter.events import Notification
from nodetool_jupyter.jobs import JobStatus, ResourceLimits
from tests.docker.jobs import jobs_on, kept_environ
from tests.engine import images
from tests.engine.private import Engine, until
from tests.kernel.conftest import Kernel
from tests.workflows.seeing import of, text

RUNNERS = ("threaded", "subprocess", "docker")
CELL = """%%nodetool --runner {runner} --in rows --out total,table --job job
import sys
from nodetool_jupyter import output, progress
print("begins")
for n, row in enumerate(rows, 1):
    progress(n, len(rows), "rows")
print("warns", file=sys.stderr)
total = sum(rows)
table = [total / len(rows), str(rows)]
output("early", total * 2)
print("ends")
total"""
TOLD = """
from nodetool_jupyter.events import NodeProgress, Stream, encode
import json
def told(job):
    kept, last, streams = [], None, dict(stdout="", stderr="")
    for event in job._manager.events(job.id):
        found = json.loads(encode(event))
        kind = found.pop("type")
        if kind == "stream":
            streams[found["name"]] += found["text"]
        elif kind == "job_update":
            kept.append([kind, found["status"], found.get("result")])
        elif kind in ("display", "output_update"):
            kept.append([kind, *(found.get(name) for name in ("data", "output_name", "value", "output_type"))])
        elif kind == "node_progress":
            last = [kind, found["progress"], found["total"], found.get("chunk")]  # when that comes is open
    return json.dumps([[last, *kept], streams])
"""


@pytest.fixture
def start(engine: Engine, tmp_path: Path) -> Iterator[Callable[[], Kernel]]:
    """Kernels as a person has them, without widgets, on one store."""
    environ = {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path / "data"), "NODETOOL_NONINTERACTIVE": "1"}
    environ |= {"NODETOOL_DOCKER_IMAGE": images.IMAGE, **engine.environ}
    started: list[Kernel] = []

    def one() -> Kernel:
        started.append(Kernel(environ, tmp_path))
        started[-1].value("%load_ext nodetool_jupyter")
        started[-1].value(TOLD + "rows = [1, 2, 3, 4]")
        return started[-1]

    yield one
    for kernel in started:
        kernel.value("from nodetool_jupyter.notebook.session import current\ncurrent().manager.close()")
        kernel.close()


def shown(kernel: Kernel, runner: str) -> tuple[str, str, str]:
    """What the cell shows, which values it brings back, and which events it leaves."""
    ran = kernel.run(CELL.format(runner=runner))
    assert not ran.error, f"{ran.error}: {ran.message}"
    lines = [line for line in ran.text.splitlines() if runner not in line and "container" not in line]
    values = kernel.value("print(total, table, job.outputs['early'], job.result())")
    return "\n".join(lines), values, kernel.value("print(told(job))")


def test_one_word_changes_where_a_cell_runs_and_nothing_else(start: Callable[[], Kernel]) -> None:
    kernel = start()
    found = {runner: shown(kernel, runner) for runner in RUNNERS}
    output, values, events = found["docker"]
    for line in ("begins", "warns", "ends", "10"):
        assert line in output
    assert values == "10 [2.5, '[1, 2, 3, 4]'] 20 10"
    kept, streams = json.loads(events)
    assert streams == {"stdout": "begins\nends\n", "stderr": "warns\n"}
    assert kept[-1] == ["job_update", "completed", 10]
    assert kept[0] == ["node_progress", 4.0, 4.0, "rows"]
    assert found["subprocess"] == found["docker"]
    assert found["threaded"][:2] == found["docker"][:2]
    assert json.loads(found["threaded"][2])[1] == streams


@pytest.mark.parametrize("runner", RUNNERS)
def test_an_error_looks_the_same_wherever_it_comes_from(start: Callable[[], Kernel], runner: str) -> None:
    kernel = start()
    ran = kernel.run(f"%%nodetool --runner {runner}\ndef f(rows):\n    return rows[9]  # too far\nf(rows)")
    assert ran.error == "JobFailed"
    assert "IndexError: list index out of range" in ran.message
    assert "return rows[9]  # too far" in kernel.value("print(''.join(_job.exception().traceback))")


def test_two_kernels_share_an_engine_and_touch_only_their_own(start: Callable[[], Kernel], engine: Engine) -> None:
    kernels = [start(), start()]
    begun = [
        kernel.start(f"%%nodetool --runner docker --out who\nprint('up', flush=True)\nwho = rows[{n}]")
        for n, kernel in enumerate(kernels)
    ]
    for kernel, cell in zip(kernels, begun, strict=True):
        assert not kernel.follow(cell).error
    assert [kernel.value("print(who)") for kernel in kernels] == ["1", "2"]
    kernels[0].value("from nodetool_jupyter.notebook.session import current\ncurrent().manager.close()")
    assert not kernels[1].run("%%nodetool --runner docker --out who\nwho = 'still here'").error
    assert kernels[1].value("print(who)") == "still here"
    with engine.client() as client:

        def owners() -> set[str]:
            return {one["Labels"]["nodetool.owner"] for one in client.api.containers(all=True)}

        until(owners, "a container waits for the next job")
        assert len(owners()) <= 1


def counts() -> tuple[int, int]:
    process = psutil.Process()
    return process.num_fds(), threading.active_count()


@pytest.mark.timeout(600)
def test_two_hundred_jobs_at_once_all_complete_in_few_containers(engine: Engine, environ: dict[str, str]) -> None:
    most = 4
    with jobs_on(engine, {**environ, "DOCKER_MAX_JOBS": str(most)}) as jobs, engine.client() as client:
        seen = [0]
        # those that have ended are removed when there is time for it
        going_on = {"label": f"nodetool.owner={jobs.manager.owner.id}", "status": ["created", "running"]}

        def run(count: int) -> None:
            submitted = [jobs.submit(f"print({n})\n{n}") for n in range(count)]

            def over() -> bool:
                seen.append(len(client.api.containers(all=True, filters=going_on)))
                return all(jobs.manager.get(job.id).status.final for job in submitted)

            wait_long(over)
            assert {jobs.manager.get(job.id).status for job in submitted} == {JobStatus.COMPLETED}
            assert [text(jobs.manager.events(job.id)) for job in submitted] == [f"{n}\n" for n in range(count)]

        run(10 * most)  # what is kept for the next jobs, such as threads and connections, is there then
        before = counts()
        run(200)
        assert 0 < max(seen) <= 2 * most  # the engine may be late to list one as ended
        until(lambda: not jobs.containers(), "every container is gone")
        until(lambda: not grown(before), f"counts are as before, {before}")


def grown(before: tuple[int, int]) -> bool:
    return any(now > was + 6 for now, was in zip(counts(), before, strict=True))


def wait_long(over: Callable[[], bool]) -> None:
    """For what takes a while on a busy machine; the test's own time limit guards it."""
    nothing = threading.Event()
    while not over():
        nothing.wait(0.2)


@pytest.mark.timeout(400)
def test_a_gigabyte_of_output_takes_little_memory_and_little_store_and_the_engine_answers(
    engine: Engine, environ: dict[str, str], tmp_path: Path
) -> None:
    with jobs_on(engine, kept_environ(environ, tmp_path)) as jobs, engine.client(timeout_seconds=30) as client:
        jobs.run("1")
        process = psutil.Process()
        before = process.memory_info().rss
        most = [before]
        code = (
            "import os\nline = b'x' * 1023 + b'\\n'\nfor _ in range(1024):\n    os.write(1, line * 1024)\nprint('done')"
        )
        job = jobs.submit(code, max_log_bytes=8 << 20)

        def over() -> bool:
            most.append(process.memory_info().rss)
            assert isinstance(client.api.containers(), list), "the engine answers, and soon"
            return jobs.manager.get(job.id).status.final

        jobs.seen(job, "xxx")
        wait_long(over)
        job, events = jobs.end(job)
        assert job.status is JobStatus.COMPLETED, job.message
        assert len(text(events)) <= 8 << 20
        assert [note.code for note in of(events, Notification)] == ["NT-O01"]
        assert max(most) - before < 200 << 20
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 64 << 20


@pytest.mark.parametrize("killed", [False, True])
def test_the_engine_answers_while_nobody_reads_a_noisy_job(
    engine: Engine, environ: dict[str, str], killed: bool
) -> None:
    with jobs_on(engine, environ) as jobs, engine.client(timeout_seconds=20) as client:
        code = "import os\nprint('up', flush=True)\nwhile True:\n    os.write(1, b'x' * 65536)"
        job = jobs.submit(code, limits=ResourceLimits(wall_seconds=100), max_log_bytes=1 << 20, grace_seconds=0.4)
        jobs.seen(job)
        container = jobs.container_of(job)
        paused, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            paused.set()
            go_on.wait(60)

        jobs.manager.call_later(0, hold)
        assert paused.wait(60)
        try:
            process = psutil.Process(client.api.inspect_container(container)["State"]["Pid"])
            used = [-1.0, -2.0]

            def quiet() -> bool:
                used.append(sum(sum(one.cpu_times()[:2]) for one in process.children(recursive=True)))
                return used[-1] == used[-10] if len(used) > 12 else False

            until(quiet, "the job waits for somebody to read")
            if killed:
                client.api.kill(container, "SIGKILL")
            assert client.api.containers(all=True)
            assert client.api.inspect_container(container)
        finally:
            go_on.set()
        jobs.manager.cancel(job.id)
        job, _ = jobs.end(job)
        assert job.status in (JobStatus.CANCELLED, JobStatus.FAILED)

"""Jobs in containers, from request to last event, through the manager and a real engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy
import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.events import Display, Exit, JobUpdate, LogUpdate, NodeProgress, OutputUpdate, Stream
from nodetool_jupyter.frames import Value
from nodetool_jupyter.jobs import JobStatus, Profile, Reason, ResourceLimits
from nodetool_jupyter.notebook.hints import with_hint
from nodetool_jupyter.view import begin, fold_all, warning_lines
from nodetool_jupyter.worker.pickled import encode_input
from tests.docker.jobs import SLEEP, STUBBORN, Jobs, isolation, jobs_on
from tests.engine import images
from tests.engine.private import Engine
from tests.workflows.seeing import of, text

SAME_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}" == images.PYTHON


@pytest.fixture
def jobs(engine: Engine, environ: dict[str, str]) -> Iterator[Jobs]:
    """A manager; the engine's own check follows, that nothing is left there."""
    with jobs_on(engine, environ) as found:
        yield found


def stream_of(event: object) -> str:
    return str(getattr(event, "name", ""))


def value(name: str, thing: object) -> Value:
    fields, buffers = encode_input(name, thing, max_bytes=1 << 30)
    return Value(**{**fields, "sizes": tuple(fields["sizes"])}, body=buffers)


def test_a_job_runs_in_a_container_of_its_own_and_completes(jobs: Jobs) -> None:
    job, events = jobs.run("import os, socket\nprint(socket.gethostname(), os.getcwd(), os.getuid())\n6 * 7")
    assert (job.status, job.reason) == (JobStatus.COMPLETED, None)
    assert text(events) == f"{jobs.container_of(job)} /job 65534\n"
    [shown] = of(events, Display)
    assert (shown.data["text/plain"], shown.result) == ("42", True)
    [end] = of(events, Exit)
    assert (end.code, end.cause, end.signal) == (0, "", None)
    jobs.nothing_is_left()


def test_events_come_in_order_and_end_with_the_final_status(jobs: Jobs) -> None:
    _, events = jobs.run("print('x')")
    kinds = [event.status if isinstance(event, JobUpdate) else type(event).__name__ for event in events]
    assert kinds[:4] == ["queued", "starting", "Isolation", "running"]
    assert kinds[-2:] == ["Exit", "completed"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_prints_and_bars_keep_their_order_and_raw_writes_arrive(jobs: Jobs) -> None:
    code = (
        "import os, sys\nfrom nodetool_jupyter import progress\nprint('one')\nprogress(1, 2)\n"
        "print('two', file=sys.stderr)\nprint('three')\nos.write(1, b'raw\\n')"
    )
    _, events = jobs.run(code)
    said = [event for event in events if isinstance(event, Stream | NodeProgress)]
    assert "".join(getattr(event, "text", "") for event in said).count("raw\n") == 1
    said = [event for event in said if getattr(event, "text", "") != "raw\n"]
    # the end of a line may come apart, and what was written past `print` be joined to any other of its stream
    texts = [
        "".join(getattr(event, "text", "bar") for event in of_one).replace("raw\n", "")
        for _, of_one in groupby(said, stream_of)
    ]
    assert texts == ["one\n", "bar", "two\n", "three\n"]
    assert "raw\n" in text(events)


def test_an_async_cell_is_awaited(jobs: Jobs) -> None:
    job, events = jobs.run("import asyncio\nawait asyncio.sleep(0)\nx = await asyncio.sleep(0, 'slept')\nx")
    assert job.status is JobStatus.COMPLETED
    assert of(events, Display)[0].data["text/plain"] == "'slept'"


def test_a_traceback_has_the_cells_own_lines_and_none_of_ours(jobs: Jobs) -> None:
    job, events = jobs.run("def f():\n    return 1 / 0  # here\n\nf()")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    assert job.message.startswith("ZeroDivisionError")
    traceback = of(events, JobUpdate)[-1].traceback or ""
    assert "1 / 0  # here" in traceback
    assert "nodetool_jupyter" not in traceback
    assert "/proc/self/fd" not in traceback


def test_progress_and_log_records_become_events(jobs: Jobs) -> None:
    code = (
        "import logging\nfrom nodetool_jupyter import progress\nfor n in range(11):\n    progress(n, 10, 'epoch')\n"
        "logging.getLogger('train').warning('loss is %s', 'nan')"
    )
    _, events = jobs.run(code)
    bars = of(events, NodeProgress)
    assert (bars[-1].progress, bars[-1].total, bars[-1].chunk) == (10, 10, "epoch")
    [record] = of(events, LogUpdate)
    assert (record.content, record.severity) == ("loss is nan", "warning")


def test_values_go_in_and_come_back(jobs: Jobs) -> None:
    given = [value("x", {"a": [1, None, "é"]}), value("raw", b"\x00\xff" * 100_000)]
    job, events = jobs.run("y = x['a'] + [len(raw)]\nraw = raw[::-1]", values=given, outputs=("y", "raw"))
    assert job.status is JobStatus.COMPLETED, job.message
    assert jobs.value(job, "y") == [1, None, "é", 200_000]
    assert jobs.value(job, "raw") == b"\xff\x00" * 100_000
    assert [event.output_name for event in of(events, OutputUpdate)] == ["y", "raw"]


def test_code_of_the_notebook_goes_in(jobs: Jobs) -> None:
    def double(n: int) -> int:
        return 2 * n

    double.__module__ = "__main__"
    job, events = jobs.run("print(double(21))", values=[value("double", double)])
    if SAME_PYTHON:
        assert (job.status, text(events)) == (JobStatus.COMPLETED, "42\n"), job.message


def test_an_array_without_numpy_in_the_image_is_named_with_its_remedy(jobs: Jobs) -> None:
    job, _ = jobs.run("print(1)", values=[value("x", numpy.arange(3))])
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    assert "Variable 'x' (numpy.ndarray)" in job.message
    assert "numpy" in job.message.partition("can't be unpacked in the job")[2]
    assert "Add --requirements numpy, choose an --image" in with_hint(job.message, job.request)


def test_what_only_pickle_could_send_is_refused_by_name(jobs: Jobs) -> None:
    job, _ = jobs.run("class A: pass\nx = A()", outputs=("x",))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    for words in ("'x'", "(A,", "--profile trusted"):
        assert words in job.message


@pytest.mark.skipif(not SAME_PYTHON, reason="code travels between equal minor versions of Python only")
def test_a_trusted_job_sends_back_a_function_of_its_cell(jobs: Jobs) -> None:
    job, _ = jobs.run("def f(n):\n    return n + 1", outputs=("f",), profile=Profile.TRUSTED)
    assert job.status is JobStatus.COMPLETED, job.message
    assert jobs.value(job, "f")(1) == 2


def test_saved_and_collected_files_come_into_a_private_folder(jobs: Jobs) -> None:
    code = (
        "from nodetool_jupyter import save\nopen('a.txt', 'w').write('saved')\nsave('a.txt')\n"
        "for n in range(2):\n    open(f'out-{n}.csv', 'w').write('x' * 100_000)\nopen('left.txt', 'w').write('')"
    )
    job, events = jobs.run(code, container=ContainerOptions(collect=("*.csv", "*.png")))
    assert job.status is JobStatus.COMPLETED, job.message
    [lacking] = warning_lines(fold_all(begin(job), events))
    assert lacking.startswith("  warning: No file came back for --collect '*.png': in /job it fits nothing.")
    paths = [Path(event.metadata["path"]) for event in of(events, OutputUpdate)]
    assert sorted(path.name for path in paths) == ["a.txt", "out-0.csv", "out-1.csv"]
    assert {path.parent.name for path in paths} == {job.id}
    assert paths[0].parent.stat().st_mode & 0o777 == 0o700
    assert [path.read_text()[:5] for path in sorted(paths)] == ["saved", "xxxxx", "xxxxx"]


def test_a_secret_is_there_and_shown_nowhere(jobs: Jobs) -> None:
    code = (
        "import os, sys\nprint(os.environ['SEC'][:4], end='', flush=True)\nprint(os.environ['SEC'][4:], flush=True)\n"
        "print(os.environ['SEC'], file=sys.stderr)\nos.environ['SEC']"
    )
    job, events = jobs.run(code, secrets={"SEC": "hush-2f81"})
    assert jobs.value(job, "") == "hush-2f81"
    assert text(events) == text(events, "stderr") == "***\n"
    assert "hush" not in repr(events)


def test_a_job_sees_what_was_asked_for_and_nothing_of_the_kernels(jobs: Jobs) -> None:
    jobs.manager.settings.environ.update(KERNEL_ONLY="sentinel", PYTHONPATH="/kernel", HTTPS_PROXY="sentinel")
    _, events = jobs.run("import os, json\nprint(json.dumps(dict(os.environ)))", env={"ASKED": "yes, $HOME"})
    found = json.loads(text(events))
    assert found["ASKED"] == "yes, $HOME"
    assert "sentinel" not in str(found)
    assert found.keys().isdisjoint({"KERNEL_ONLY", "PYTHONPATH", "HTTPS_PROXY"})
    assert found["HOME"] == "/job"


def test_a_secret_reaches_the_code_and_stands_nowhere_else(
    engine: Engine, environ: dict[str, str], tmp_path: Path
) -> None:
    sentinel = "sentinel-d41d8cd98f00b204"
    code = (
        "import os, pathlib, time\nassert os.environ['TOKEN'].startswith('sentinel')\n"
        "for one in pathlib.Path('/proc').glob('[0-9]*/*'):\n"
        "    if one.name in ('environ', 'cmdline'):\n"
        "        try:\n            assert b'sentinel-' not in one.read_bytes(), one\n"
        "        except OSError:\n            pass\n"
        "print('up', flush=True)\nwhile not os.path.exists('/job/go'):\n    time.sleep(0.01)"
    )
    environ["NODETOOL_DATABASE_URL"] = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    with jobs_on(engine, environ) as jobs:
        job = jobs.submit(code, secrets={"TOKEN": sentinel})
        jobs.seen(job)
        assert sentinel not in str(jobs.inspect(job))
        assert sentinel.encode() not in b"".join(_command_lines())
        with engine.client() as client:
            made = client.api.exec_create(jobs.container_of(job), ["touch", "/job/go"])
            client.api.exec_start(made["Id"])
        job, events = jobs.end(job)
        assert job.status is JobStatus.COMPLETED, job.message
        assert sentinel not in repr(events)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or sentinel.encode() not in path.read_bytes(), path
    assert sentinel not in engine.log()


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue


def test_input_says_what_to_do_instead(jobs: Jobs) -> None:
    job, _ = jobs.run("input('name? ')")
    assert job.message.startswith("RuntimeError: input() does not work in a job")
    assert "--in" in job.message


def test_a_time_limit_stops_the_container_and_says_how_to_get_more(jobs: Jobs) -> None:
    job, events = jobs.run(SLEEP, limits=ResourceLimits(wall_seconds=0.5))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.TIMEOUT)
    assert "--timeout 1s" in job.message
    assert of(events, Exit)[0].sent[0].signal == "SIGINT"


def test_a_cancel_interrupts_and_leaves_a_receipt(jobs: Jobs) -> None:
    code = "import time\ntry:\n    print('up', flush=True)\n    time.sleep(600)\nexcept KeyboardInterrupt:\n"
    code += "    print('saved')"
    job = jobs.submit(code)
    jobs.seen(job)
    assert jobs.manager.cancel(job.id)
    job, events = jobs.end(job)
    assert job.status is JobStatus.CANCELLED
    assert text(events) == "up\nsaved\n"
    [end] = of(events, Exit)
    assert [step.signal for step in end.sent] == ["SIGINT"]
    assert end.processes_reaped >= 1
    statuses = [event.status for event in of(events, JobUpdate)]
    assert statuses == ["queued", "starting", "running", "cancelling", "cancelled"]


def test_a_job_that_ignores_every_signal_is_killed_with_all_that_it_started(jobs: Jobs) -> None:
    daemon = (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    os.closerange(0, 64)\n    import time; time.sleep(600)\n"
    )
    job = jobs.submit(daemon + STUBBORN, grace_seconds=0.4)
    jobs.seen(job)
    jobs.manager.cancel(job.id)
    job, events = jobs.end(job)
    assert job.status is JobStatus.CANCELLED
    [end] = of(events, Exit)
    assert [step.signal for step in end.sent] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert end.signal == "SIGKILL"
    jobs.nothing_is_left()


def test_success_is_never_concluded_from_exit_code_0(jobs: Jobs) -> None:
    job, _ = jobs.run("import os\nos._exit(0)")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.NO_RESULT)
    assert "NT-R01" in job.message


def test_a_crash_shows_the_line_that_crashed(jobs: Jobs) -> None:
    job, _ = jobs.run("import ctypes\nctypes.string_at(0)")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.CRASHED)
    assert "SIGSEGV" in job.message
    assert '"<cell>", line 2' in job.message


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        ("import sys\nsys.exit(137)", Reason.ERROR, "SystemExit: 137"),
        ("import os\nos._exit(137)", Reason.CRASHED, "exit code 137"),
        ("import os\nos._exit(139)", Reason.CRASHED, "exit code 139"),
    ],
)
def test_an_exit_code_that_looks_like_a_signal_is_not_taken_for_one(
    jobs: Jobs, code: str, reason: Reason, words: str
) -> None:
    job, events = jobs.run(code)
    assert (job.status, job.reason) == (JobStatus.FAILED, reason)
    assert words in job.message
    assert of(events, Exit)[0].signal is None


def test_a_kill_from_outside_is_told_apart(jobs: Jobs) -> None:
    job = jobs.submit(SLEEP)
    jobs.seen(job)
    with jobs.engine.client() as client:
        client.api.kill(jobs.container_of(job), "SIGKILL")
    job, _ = jobs.end(job)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.KILLED)
    assert "from outside by SIGKILL" in job.message


def test_a_chosen_id_is_kept(jobs: Jobs) -> None:
    job, events = jobs.run("import os\nprint(os.environ['NODETOOL_JOB_ID'])", job_id="my-run_7")
    assert (job.id, text(events)) == ("my-run_7", "my-run_7\n")
    assert {event.job_id for event in events} == {"my-run_7"}


def test_isolation_tells_what_was_in_force(jobs: Jobs) -> None:
    limits = ResourceLimits(memory_bytes=256 << 20, cpus=0.5, pids=40, shm_bytes=32 << 20)
    _, events = jobs.run("1", limits=limits)
    found = isolation(events)
    assert (found.runner, found.profile, found.boundary, found.not_held) == ("docker", "default", "container", ())
    assert set(found.held) >= {"memory_bytes", "cpus", "pids", "shm_bytes", "open_files"}
    details = found.details
    with jobs.engine.client() as client:
        assert details["image_id"] == client.images.get(images.IMAGE).id
    assert details["image"] == images.IMAGE
    assert details["python"].startswith(images.PYTHON)
    wanted = {"user": "65534:65534", "network": "none", "read_only": False, "capabilities": "none",
              "no_new_privileges": True, "mounts": [], "gpus": [], "profile_limits": {"open_files": 4096}}  # fmt: skip
    assert {name: details[name] for name in wanted} == wanted


def test_closing_the_manager_ends_every_job_and_its_container(jobs: Jobs) -> None:
    job = jobs.submit(STUBBORN)
    jobs.seen(job)
    jobs.manager.close()
    jobs.nothing_is_left()


def test_two_jobs_share_nothing(jobs: Jobs) -> None:
    jobs.run("import builtins\nbuiltins.leaked = 1\nopen('/tmp/leaked', 'w').close()\nopen('/job/leaked', 'w').close()")
    job, events = jobs.run("import os\nprint(os.path.exists('/tmp/leaked'), os.path.exists('/job/leaked'))\nleaked")
    assert text(events) == "False False\n"
    assert job.message.startswith("NameError")


def test_containers_are_bounded_and_the_rest_start_first_in_first_out(engine: Engine, environ: dict[str, str]) -> None:
    with jobs_on(engine, {**environ, "DOCKER_MAX_JOBS": "2"}) as jobs:
        running = [jobs.submit(SLEEP) for _ in range(2)]
        for job in running:
            jobs.seen(job)
        waiting = [jobs.submit("print(1)") for _ in range(3)]
        assert {jobs.manager.get(job.id).status for job in waiting} == {JobStatus.QUEUED}
        assert len(jobs.containers()) == 2
        gone = jobs.submit("print(1)")
        jobs.manager.cancel(gone.id)
        assert jobs.end(gone)[0].status is JobStatus.CANCELLED
        jobs.manager.cancel(running[0].id)
        ended = [jobs.end(job)[0] for job in waiting]
        assert {job.status for job in ended} == {JobStatus.COMPLETED}
        starts = [job.started_at or 0 for job in ended]
        assert starts == sorted(starts)
        jobs.manager.cancel(running[1].id)
        jobs.end(running[1])

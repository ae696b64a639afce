"""A cell as a job in a thread of this process, through the manager: what it promises, and where Python sets limits."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import linecache
import os
import sys
import tempfile
import threading
from contextlib import redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pytest

from nodetool_jupyter.events import (
    AnyEvent,
    Display,
    JobUpdate,
    LogUpdate,
    NodeProgress,
    Notification,
    OutputUpdate,
    Stream,
)
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus, Reason
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Parcel
from tests.kernel.conftest import until
from tests.workflows.seeing import Run, Seen, Submit, end, notes, of, text


def test_a_cell_runs_on_the_notebooks_own_namespace(manager: JobExecutionManager, submit: Submit) -> None:
    namespace: dict[str, Any] = {"x": 20}
    job, events = end(manager, submit("y = x + 1\n2 * y", parcel=Parcel(namespace=namespace)))
    assert job.status is JobStatus.COMPLETED
    assert namespace["y"] == 21
    assert [event.data for event in of(events, Display)] == [{"text/plain": "42"}]
    assert of(events, JobUpdate)[-1].result == 42


def test_values_come_back_as_the_very_objects(manager: JobExecutionManager, submit: Submit) -> None:
    namespace: dict[str, Any] = {}
    job = submit("lock = object()\nlock", parcel=Parcel(namespace=namespace), outputs=("lock",))
    end(manager, job)
    assert manager.values(job.id)["lock"].body is namespace["lock"]
    assert manager.values(job.id)[""].body is namespace["lock"]


def test_an_output_that_the_cell_did_not_define_fails_the_job(run: Run) -> None:
    job, _ = run("x = 1", outputs=("answer",))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    assert "'answer'" in job.message


def test_a_cell_that_raises_fails_with_its_own_lines(run: Run) -> None:
    job, events = run("def f():\n    return 1 / 0\nf()")
    assert (job.status, job.reason, job.message) == (
        JobStatus.FAILED,
        Reason.ERROR,
        "ZeroDivisionError: division by zero",
    )
    assert "return 1 / 0" in (of(events, JobUpdate)[-1].traceback or "")
    assert "nodetool_jupyter" not in (of(events, JobUpdate)[-1].traceback or "")


def test_a_syntax_error_fails_the_job(run: Run) -> None:
    assert run("x = (")[0].message.startswith("SyntaxError")


@pytest.mark.parametrize(("code", "status"), [("", "completed"), ("0", "completed"), ("3", "failed")])
def test_an_exit_ends_the_job_and_not_the_kernel(run: Run, code: str, status: str) -> None:
    assert run(f"import sys\nsys.exit({code})")[0].status.value == status


def test_streams_of_the_job_are_apart_from_everybody_elses(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys\nprint('begun', n)\ngate.wait()\nprint('job', n)\nprint('err', n, file=sys.stderr)"
    jobs = [submit(code, parcel=Parcel(namespace={"gate": gate, "n": n})) for n in range(2)]
    for n, job in enumerate(jobs):
        Seen(manager, job).printed(f"begun {n}")
    print("main")
    with redirect_stdout(io.StringIO()) as redirected:
        print("redirected")
        gate.set()
        for n, job in enumerate(jobs):
            events = end(manager, job)[1]
            assert text(events) == f"begun {n}\njob {n}\n"
            assert text(events, "stderr") == f"err {n}\n"
    assert redirected.getvalue() == "redirected\n"
    assert capsys.readouterr() == ("main\n", "")


def test_a_redirection_counts_for_the_one_who_makes_it(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import contextlib, io\nprint('begun')\nwith contextlib.redirect_stdout(io.StringIO()) as kept:\n"
        "    print('kept')\n    print('ready', file=sys.stderr)\n    gate.wait()\n    print('still')\nprint('done')"
    )
    namespace: dict[str, Any] = {"gate": gate, "sys": sys}
    job = submit(code, parcel=Parcel(namespace=namespace))
    Seen(manager, job).printed("ready", "stderr")
    print("main")
    gate.set()
    assert text(end(manager, job)[1]) == "begun\ndone\n"
    assert namespace["kept"].getvalue() == "kept\nstill\n"
    assert capsys.readouterr().out == "main\n"


def test_the_streams_are_as_before_when_the_last_job_has_ended(run: Run) -> None:
    before = sys.stdout, sys.stderr, threading.Thread.start, tempfile._gettempdir, input
    run("print('x')")
    assert (sys.stdout, sys.stderr, threading.Thread.start, tempfile._gettempdir, input) == before  # type: ignore[attr-defined]


def test_threads_that_a_job_starts_write_to_the_job(run: Run) -> None:
    code = (
        "import threading, asyncio\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "thread = threading.Thread(target=print, args=('thread',))\nthread.start()\nthread.join()\n"
        "with ThreadPoolExecutor(1) as pool: pool.submit(print, 'pool').result()\n"
        "await asyncio.get_running_loop().run_in_executor(None, print, 'executor')\n"
        "await asyncio.to_thread(print, 'to_thread')"
    )
    assert text(run(code)[1]) == "thread\npool\nexecutor\nto_thread\n"


def test_what_a_thread_prints_after_its_job_goes_where_the_process_writes(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, Any] = {"gate": gate}
    code = (
        "import threading\ndef late():\n    gate.wait()\n    print('late')\n"
        "thread = threading.Thread(target=late)\nthread.start()"
    )
    _, events = end(manager, submit(code, parcel=Parcel(namespace=namespace)))
    gate.set()
    namespace["thread"].join()
    assert text(events) == ""
    assert capsys.readouterr().out == "late\n"


def test_a_flood_of_prints_arrives_whole_and_in_order(run: Run) -> None:
    job, events = run("for n in range(50_000): print(n)")
    assert job.status is JobStatus.COMPLETED
    assert text(events) == "".join(f"{n}\n" for n in range(50_000))


def test_a_single_huge_print_arrives_whole(run: Run) -> None:
    assert len(text(run("print('x' * 50_000_000)")[1])) == 50_000_001


def test_half_a_surrogate_pair_breaks_nothing(run: Run) -> None:
    job, events = run("print('a\\udc80')\nimport logging\nlogging.warning('\\udc80')\nraise ValueError('\\udc80')")
    assert text(events) == "a\ufffd\n"
    assert job.message == "ValueError: \ufffd"


def test_prints_displays_and_bars_keep_their_order(run: Run) -> None:
    code = "import nodetool_jupyter as nt\nprint('a')\nnt.progress(1, 2)\nprint('b')\n5"
    shown = [event for event in run(code)[1] if isinstance(event, Stream | NodeProgress | Display)]
    assert [kind for kind, _ in groupby(map(type, shown))] == [Stream, NodeProgress, Stream, Display]


def test_bars_of_tqdm_and_records_of_logging_become_events_for_the_job_alone(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    from tqdm import tqdm

    code = (
        "import logging\nfrom tqdm.auto import tqdm\n"
        "for _ in tqdm(range(3), desc='load'): pass\n"
        "logging.getLogger('mine').error('oh')"
    )
    _, events = run(code)
    assert [(bar.label, bar.progress) for bar in of(events, NodeProgress)][-1] == ("load", 3)
    assert [(log.node_name, log.content) for log in of(events, LogUpdate)] == [("mine", "oh")]
    assert "load" not in text(events, "stderr")
    file = io.StringIO()
    for _ in tqdm(range(3), file=file):
        pass
    logging.getLogger("mine").debug("outside")
    assert "3/3" in file.getvalue()


def test_values_can_be_handed_back_before_the_end(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event
) -> None:
    job = submit(
        "import nodetool_jupyter as nt\nnt.output('rows', [1])\ngate.wait()", parcel=Parcel(namespace={"gate": gate})
    )
    Seen(manager, job).wait(lambda event: isinstance(event, OutputUpdate) and event.output_name == "rows")
    assert manager.values(job.id)["rows"].body == [1]
    gate.set()
    end(manager, job)


def test_a_file_is_brought_back(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"x" * 2_000_000)
    (update,) = of(run(f"import nodetool_jupyter as nt\nnt.save({str(path)!r})")[1], OutputUpdate)
    assert Path(update.metadata["path"]).read_bytes() == path.read_bytes()


def test_a_file_that_is_too_large_fails_the_job_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "huge.bin"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    job, events = run(f"import nodetool_jupyter as nt\nnt.save({str(path)!r})", max_transfer_bytes=1 << 20)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    assert job.message.startswith("FileTooLarge: File 'huge.bin' (1024.0 GiB) can't come back from the job: ")
    assert of(events, OutputUpdate) == of(events, Notification) == []


def test_an_async_cell_runs_on_a_loop_of_its_own(run: Run) -> None:
    code = (
        "import asyncio\nasync def f(n):\n    await asyncio.sleep(0)\n    return n\n"
        "sum(await asyncio.gather(f(1), f(2)))"
    )
    assert of(run(code)[1], JobUpdate)[-1].result == 3


def test_an_async_cell_that_blocks_its_loop_is_told_once_where(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event
) -> None:
    code = (
        "import asyncio, time\nawait asyncio.sleep(0)\nfor block in gate.wait, lambda: time.sleep(0.4):\n"
        "    block()\n    await asyncio.sleep(0.1)"
    )
    job = submit(code, parcel=Parcel(namespace={"gate": gate}))
    Seen(manager, job).wait(lambda event: isinstance(event, Notification))
    gate.set()
    (note,) = notes(end(manager, job)[1], "NT-A02")
    assert "waiter.acquire()" in note
    assert "line 4" in note
    assert "asyncio.to_thread" in note


def test_an_async_cell_that_waits_is_told_nothing(run: Run) -> None:
    assert notes(run("import asyncio\nawait asyncio.sleep(0.4)")[1], "NT-A02") == []


def test_changes_to_the_process_are_reported_and_stay(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setenv("LEAKED", "before")
    monkeypatch.setattr(sys, "path", list(sys.path))
    mask = os.umask(0o022)
    try:
        code = (
            f"import os, sys\nos.chdir({str(tmp_path)!r})\n"
            f"os.environ['LEAKED'] = 'secret value'\nsys.path.append('/added')\n"
            f"os.umask(0o077)"
        )
        said = "\n".join(notes(run(code)[1], "NT-L01"))
    finally:
        os.umask(mask)
    for part in (str(tmp_path), "'LEAKED'", "'/added'", "0077"):
        assert part in said
    assert "secret value" not in said
    assert os.environ["LEAKED"] == "secret value"


def test_a_job_that_changes_nothing_reports_nothing(run: Run) -> None:
    assert notes(run("x = 1")[1], "NT-L01") == []


def test_each_job_has_a_temporary_folder_that_is_gone_at_its_end(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event
) -> None:
    code = (
        "import tempfile\nwith tempfile.NamedTemporaryFile(delete=False) as file: pass\n"
        "folder = tempfile.gettempdir()\nprint('ready')\ngate.wait()"
    )
    spaces: list[dict[str, Any]] = [{"gate": gate} for _ in range(2)]
    jobs = [submit(code, parcel=Parcel(namespace=space)) for space in spaces]
    for job in jobs:
        Seen(manager, job).printed("ready")
    folders = {space["folder"] for space in spaces}
    assert len(folders) == 2
    assert tempfile.gettempdir() not in folders
    assert all(Path(folder).is_dir() and Path(folder).stat().st_mode & 0o777 == 0o700 for folder in folders)
    assert all(Path(space["file"].name).parent == Path(space["folder"]) for space in spaces)
    gate.set()
    for job in jobs:
        end(manager, job)
    assert not any(Path(folder).exists() for folder in folders)


def test_a_job_without_need_makes_no_temporary_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import nodetool_jupyter.runners.threaded as module

    def refuse(*_: object) -> Path:
        raise AssertionError

    monkeypatch.setattr(module, "job_folder", refuse)
    assert run("1")[0].status is JobStatus.COMPLETED


def test_input_in_a_job_says_what_to_do_instead(run: Run) -> None:
    assert run("input('?')")[0].message.startswith("RuntimeError: input() does not work in a job")


def test_the_callers_context_is_the_jobs_but_not_the_other_way_round(
    manager: JobExecutionManager, submit: Submit
) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("mine")
    namespace: dict[str, Any] = {"variable": variable}
    parcel = Parcel(namespace=namespace, context=contextvars.copy_context())
    end(manager, submit("seen = variable.get()\nvariable.set('theirs')", parcel=parcel))
    assert namespace["seen"] == "mine"
    assert variable.get() == "mine"


def test_figures_of_two_jobs_and_of_the_kernel_are_apart(
    manager: JobExecutionManager, submit: Submit, gate: threading.Event
) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    shared = plt.figure()
    code = (
        "import matplotlib.pyplot as plt\nfigure = plt.figure()\nprint('ready')\n"
        "gate.wait()\nfound = plt.get_fignums(), plt.gcf() is figure"
    )
    spaces: list[dict[str, Any]] = [{"gate": gate} for _ in range(2)]
    jobs = [submit(code, parcel=Parcel(namespace=space)) for space in spaces]
    for job in jobs:
        Seen(manager, job).printed("ready")
    assert plt.gcf() is shared
    gate.set()
    for job in jobs:
        end(manager, job)
    assert [space["found"] for space in spaces] == [([1], True)] * 2
    assert plt.get_fignums() == [shared.number]
    plt.close("all")


def test_two_thousand_short_jobs_leave_counts_flat(run: Run) -> None:
    def counts() -> tuple[int, int]:
        """Threads, but for those that anyio ends when it likes, and descriptors."""
        gc.collect()
        lasting = [thread for thread in threading.enumerate() if thread.name != "AnyIO worker thread"]
        return len(lasting), len(os.listdir("/proc/self/fd"))

    def flat() -> bool:
        """As the last job's thread has a step to go when its end is told, and the manager looks after its files."""
        return all(now <= then for now, then in zip(counts(), before, strict=True))

    code = "def f(): 1 / 0\ntry: f()\nexcept ZeroDivisionError: pass"
    for _ in range(20):
        run(code)
    before, memory = counts(), psutil.Process().memory_info().rss
    for _ in range(2000):
        run(code)
    until(flat)
    assert sum(name.startswith("<cell") for name in linecache.cache) <= 256 + 20
    kept_by_the_store = 16 << 10  # a store in memory holds the events of every job
    assert psutil.Process().memory_info().rss - memory < 2000 * kept_by_the_store


def test_a_job_can_be_followed_from_an_event_loop(manager: JobExecutionManager, submit: Submit) -> None:
    async def collect(job: Job) -> list[AnyEvent]:
        return [event async for event in manager.follow(job.id)]

    events = asyncio.run(collect(submit("print('hello')")))
    assert text(events) == "hello\n"
    assert isinstance(events[-1], JobUpdate)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_a_name_that_the_caller_chose_is_shown_in_tracebacks(manager: JobExecutionManager) -> None:
    request = JobRequest(work=CodeWork("1 / 0", filename="Cell In[7]"))
    job = manager.submit(request, Parcel(namespace={}))
    assert "Cell In[7], line " in (of(end(manager, job)[1], JobUpdate)[-1].traceback or "")

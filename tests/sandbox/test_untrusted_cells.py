"""Untrusted jobs through the whole manager: what reaches the notebook, its store and its person."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from nodetool_jupyter.errors import OutputMissing
from nodetool_jupyter.events import AnyEvent, Display, Exit, Isolation, Notification, Stream, encode_batch
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus, Profile, Reason
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.notebook.handle import decode_value
from nodetool_jupyter.notebook.hints import with_hint
from nodetool_jupyter.runners.base import Parcel, Worker
from nodetool_jupyter.view import isolation_rows, isolation_text
from tests.runners.processes import Place

Run = Callable[..., tuple[Job, list[AnyEvent]]]
GUARD = 60.0

SEND = """
import os
from nodetool_jupyter.worker import wire
def send(header, *body):
    wire.write(63, wire.encode(header, body))
"""


@pytest.fixture
def cell(run: Run) -> Run:
    """Run a cell as untrusted in the sandboxed process."""
    return lambda code, **fields: run(code, runner="subprocess", profile=Profile.UNTRUSTED, **fields)


_watched: list[list[str]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _watched and event == "pickle.find_class":
        _watched[-1].append(event)


@pytest.fixture
def decoded() -> Iterator[list[str]]:
    """What pickles looked up in this process meanwhile."""
    if not getattr(_note, "added", False):
        sys.addaudithook(_note)
        _note.added = True  # type: ignore[attr-defined]
    _watched.append([])
    yield _watched[-1]
    _watched.pop()


@pytest.mark.parametrize("name", ["x", ""])
def test_a_pickle_is_never_opened_and_ends_the_job(cell: Run, decoded: list[str], name: str) -> None:
    evil = b"cos\nsystem\n(S'true'\ntR."
    header = {"type": "value", "name": name, "format": "pickle", "type_name": "int", "sizes": [len(evil)], "meta": {}}
    job, _ = cell(
        f"{SEND}\nsend({header!r}, {evil!r})\nimport time\ntime.sleep(600)", outputs=("x",), grace_seconds=0.5
    )
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.PROTOCOL)
    assert "as a pickle, which is code" in job.message
    assert decoded == []


@pytest.mark.parametrize("kind", ["json", "tagged", "bytes", "numpy"])
def test_a_pickle_under_another_name_is_only_bytes(
    manager: JobExecutionManager, cell: Run, decoded: list[str], kind: str
) -> None:
    evil = b"cos\nsystem\n(S'true'\ntR."
    header = {"type": "value", "name": "x", "format": kind, "type_name": "int", "sizes": [len(evil)]}
    header["meta"] = {"dtype": "|O", "shape": [1]} if kind == "numpy" else {}
    job, _ = cell(f"{SEND}\nsend({header!r}, {evil!r})")
    assert job.status is JobStatus.COMPLETED
    value = manager.values(job.id)["x"]
    if kind == "bytes":
        assert decode_value(value, job) == evil
    else:
        with pytest.raises(OutputMissing, match="can't be unpacked here"):
            decode_value(value, job)
    assert decoded == []


def test_tables_and_tuples_come_back_without_pickle(
    manager: JobExecutionManager, cell: Run, decoded: list[str]
) -> None:
    code = "import pandas as pd\ntable = pd.DataFrame({'a': [1, 2]})\nrow = {('a', 1): [table, {2**70}]}"
    job, _ = cell(code, outputs=("table", "row"))
    assert list(decode_value(manager.values(job.id)["table"], job)["a"]) == [1, 2]
    table, numbers = decode_value(manager.values(job.id)["row"], job)["a", 1]
    assert (list(table["a"]), numbers) == ([1, 2], {2**70})
    assert decoded == []


def test_what_a_cell_shows_is_screened(cell: Run) -> None:
    code = """
from IPython.display import HTML, SVG, Javascript, display
display(HTML("<script>alert(1)</script>"))
bundle = {"text/html": "<b>", "image/svg+xml": "<svg onload=alert(1)>", "text/plain": "\\x1b]52;c;eA==\\x07plain"}
display(bundle, raw=True)
print("\\x1b[31mred\\x1b[0m\\x1b]0;title\\x07")
import os
os.write(1, b"\\x1b]8;;http://x\\x07from C\\x1b]8;;\\x07\\n")
raise ValueError("\\x1b]52;c;eA==\\x07said")
"""
    job, events = cell(code)
    shown = [event.data for event in events if isinstance(event, Display)]
    assert [data.keys() for data in shown] == [{"text/plain"}, {"text/plain"}]
    assert shown[1] == {"text/plain": "plain"}
    text = "".join(event.text for event in events if isinstance(event, Stream))
    assert "\x1b[31mred\x1b[0m\n" in text
    assert "from C\n" in text
    assert job.message == "ValueError: said"
    assert rb"\u001b[" in encode_batch(events)
    assert rb"\u001b]" not in encode_batch(events)


def test_a_picture_of_a_plot_is_shown(cell: Run) -> None:
    _, events = cell("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    [picture] = [event.data for event in events if isinstance(event, Display)]
    assert "image/png" in picture


def test_the_log_of_an_untrusted_job_is_short(cell: Run) -> None:
    job, events = cell("for n in range(400):\n    print('x' * 9_999)")
    assert job.status is JobStatus.COMPLETED
    kept = sum(len(event.text) for event in events if isinstance(event, Stream))
    assert 1 << 20 < kept <= 2 << 20
    assert [event.code for event in events if isinstance(event, Notification)] == ["NT-O01"]


def test_what_comes_back_altogether_is_bounded(cell: Run) -> None:
    job, _ = cell("from nodetool_jupyter import output\nfor n in range(5):\n    output('x', bytes(8 << 20))")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.PROTOCOL)
    assert "sent back more than 32 MiB" in job.message


def test_a_secret_is_there_only_when_it_was_asked_for(
    manager: JobExecutionManager, settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os\nprint(os.environ.get('TOKEN'), b'hush' in open('/proc/self/environ', 'rb').read())"
    work = JobRequest(
        work=CodeWork(code), runner="subprocess", profile=Profile.UNTRUSTED, secrets=("TOKEN",), env={"A": "1"}
    )
    parcel = Parcel(environ={"TOKEN": "kernel's"}, secrets={"TOKEN": "hush"})
    job = manager.wait(manager.submit(work, parcel).id, timeout=GUARD)
    text = "".join(event.text for event in manager.events(job.id) if isinstance(event, Stream))
    assert text.endswith(" False\n")
    assert "kernel's" not in text


def test_code_that_phones_home_reads_well(cell: Run) -> None:
    job, _ = cell("import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=20)")
    assert job.message == "OSError: [Errno 101] Network is unreachable"
    assert with_hint(job.message, job.request).endswith(
        "The untrusted profile has no network. Fetch what the code needs first, pass it with --in."
    )
    job, _ = cell("import urllib.request\nurllib.request.urlopen('http://example.org')")
    assert "no network" in with_hint(job.message, job.request)


def test_code_that_wants_files_of_the_person_reads_well(cell: Run) -> None:
    job, _ = cell("open('data.csv')")
    assert with_hint(job.message, job.request).endswith(
        "The untrusted profile sees no files of yours. Pass what the code needs with --in."
    )


def test_the_boundary_is_recorded_and_shown(manager: JobExecutionManager, cell: Run) -> None:
    job, events = cell("1")
    [isolation] = [event for event in events if isinstance(event, Isolation)]
    assert isolation.boundary == "bubblewrap"
    words = "sandboxed process · user 65534 · no network · none of your files · "
    assert isolation_text(isolation).startswith(words)
    assert dict(isolation_rows(isolation, job.request.limits))["limits"].startswith(
        "time 5:00 (timer), memory 512 MiB ("
    )
    assert job.request.limits.wall_seconds == 300


@pytest.mark.parametrize("runner", ["threaded", "subprocess"])
def test_every_other_job_records_that_it_has_no_boundary(run: Run, runner: str) -> None:
    _, events = run("1", runner=runner)
    [isolation] = [event for event in events if isinstance(event, Isolation)]
    assert (isolation.runner, isolation.profile, isolation.boundary) == (runner, "default", "none")


def test_nothing_outlives_a_supervisor_that_is_killed(place: Place) -> None:
    def kill(worker: Worker, report: object) -> None:
        if isinstance(report, Stream):
            worker._link._process.kill()  # type: ignore[attr-defined]

    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\nprint('ready')\ntime.sleep(600)"
    found = place.run(code, profile=Profile.UNTRUSTED, on_report=kill)
    assert found.exit == Exit(cause="supervisor_lost")


def test_values_of_a_frame_are_checked_against_its_bytes(cell: Run) -> None:
    header = {"type": "value", "name": "x", "format": "bytes", "type_name": "bytes", "sizes": [5], "meta": {}}
    job, _ = cell(f"{SEND}\nsend({header!r}, b'12')", grace_seconds=0.5)
    assert job.reason is Reason.PROTOCOL

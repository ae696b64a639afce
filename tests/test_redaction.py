"""No value of a secret is recorded, whichever way it is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodetool_jupyter.config import Settings
from nodetool_jupyter.events import (
    AnyEvent,
    ClearOutput,
    Display,
    Exit,
    JobUpdate,
    LogUpdate,
    NodeProgress,
    Notification,
    OutputUpdate,
    Stream,
    UsageUpdate,
    encode_batch,
)
from nodetool_jupyter.frames import Raised, Value
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.redaction import Redaction, redaction
from nodetool_jupyter.runners.base import Parcel
from nodetool_jupyter.testing import ScriptedRunner
from nodetool_jupyter.worker.pickled import decode
from tests.workflows.seeing import of, text

SECRET = "hush-7f\"3'<e>\\q9"
END = JobUpdate(status="completed")
GUARD = 60.0
SHOWS = {
    "print": "print('it is', SEC)",
    "print in two pieces": "print(SEC[:5], end='', flush=True)\nprint(SEC[5:], flush=True)",
    "print letter by letter": "for letter in SEC:\n    print(letter, end='', flush=True)",
    "a descriptor": "import os\nos.write(1, SEC.encode())",
    "stderr": "import sys\nprint(SEC, file=sys.stderr)",
    "display": "from IPython.display import HTML, display\ndisplay(HTML(SEC), {'token': SEC})",
    "its representation": "print([SEC], {'t': SEC.encode()})",
    "logging": "import logging\nlogging.warning('it is %s', SEC)",
    "a warning": "import warnings\nwarnings.warn(SEC)",
    "an exception": "raise ValueError(f'{SEC} is wrong')",
    "a name that is not there": "{}[SEC]",
    "the last expression": "SEC",
    "a last expression of several": "{'token': [SEC], SEC: 1}",
    "an output": "from nodetool_jupyter import output\noutput('token', SEC)",
    "progress": "from nodetool_jupyter import progress\nprogress(1, 2, SEC)",
    "a file's name": (
        "import nodetool_jupyter as nt, os\npath = 'f-' + SEC.replace('/', '')\nopen(path, 'w').close()\nnt.save(path)"
    ),
}
READ = "import os\nSEC = os.environ['SEC']\n"


def is_told(events: list[AnyEvent]) -> bool:
    """Whether the secret stands in what is stored of these, as a person would read it there."""
    stored = encode_batch(events).decode()
    return any(part in stored for part in ("hush-7f", "<e>", "q9", "&lt;e&gt;"))


@pytest.mark.parametrize("show", SHOWS)
def test_no_event_of_a_process_tells_a_secret(
    show: str, manager: JobExecutionManager, submit: Callable[..., Job], settings: Settings, tmp_path: Path
) -> None:
    parcel = Parcel(environ=settings.environ, secrets={"SEC": SECRET})
    job = submit(READ + SHOWS[show], parcel=parcel, runner="subprocess", secrets=("SEC",), cwd=str(tmp_path))
    ended, events = manager.wait(job.id, GUARD), manager.events(job.id)
    assert ended.status is (JobStatus.FAILED if "raise" in SHOWS[show] or "{}[" in SHOWS[show] else JobStatus.COMPLETED)
    assert not is_told(events)
    assert "hush" not in repr(ended)
    assert "***" in encode_batch(events).decode()


@pytest.mark.parametrize("show", [show for show in SHOWS if show not in ("a descriptor", "a file's name")])
def test_nor_does_one_of_a_thread(show: str, manager: JobExecutionManager, submit: Callable[..., Job]) -> None:
    parcel = Parcel(namespace={"SEC": SECRET}, secrets={"SEC": SECRET})
    job = submit(SHOWS[show], parcel=parcel, runner="threaded")
    ended, events = manager.wait(job.id, GUARD), manager.events(job.id)
    assert not is_told(events)
    assert "hush" not in repr(ended)
    assert "***" in encode_batch(events).decode()


def test_the_files_of_the_store_do_not_hold_a_secret(settings: Settings, tmp_path: Path) -> None:
    environ = {name: value for name, value in settings.environ.items() if name != "ENV"}
    kept = Settings({**environ, "NODETOOL_DATABASE_URL": f"sqlite:///{tmp_path / 'jobs.sqlite'}"})
    # what a descriptor brings comes between, wherever that is
    apart = ("a descriptor", "an exception", "a name that is not there")
    code = READ + "\n".join(show for name, show in SHOWS.items() if name not in apart)
    with JobExecutionManager(kept) as manager:
        work = CodeWork(code + "\nraise ValueError(SEC)")
        request = JobRequest(work=work, runner="subprocess", secrets=("SEC",), cwd=str(tmp_path))
        job = manager.submit(request, Parcel(environ=environ, secrets={"SEC": SECRET}))
        assert manager.wait(job.id, GUARD).message == "ValueError: ***"
        assert not is_told(manager.events(job.id))
        stored = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.sqlite*"))
    assert job.id.encode() in stored
    assert b"hush-7f" not in stored


def test_the_notebook_gets_what_the_cell_hands_back(
    manager: JobExecutionManager, submit: Callable[..., Job], settings: Settings
) -> None:
    parcel = Parcel(environ=settings.environ, secrets={"SEC": SECRET})
    job = submit(READ + "[SEC]", parcel=parcel, runner="subprocess", secrets=("SEC",))
    assert manager.wait(job.id, GUARD).status is JobStatus.COMPLETED
    assert decode(manager.values(job.id)[""]) == [SECRET]
    assert of(manager.events(job.id), JobUpdate)[-1].result == ["***"]


@pytest.mark.parametrize(
    "runner",
    [
        ScriptedRunner(exit=Exit(cause="crashed", signal="SIGABRT", detail=f"Fatal {SECRET}")),
        ScriptedRunner(fail_to_start=f"The image says {SECRET}"),
        ScriptedRunner(Raised("E", "x", (f"E: {SECRET[:8]}", SECRET[8:])), exit=Exit(code=1)),
        ScriptedRunner(Stream(name="stderr", text="x" + SECRET[:9]), exit=Exit(code=1)),
        ScriptedRunner(Value("a", "json", "str", sizes=(8,), body=b'"12345"'), exit=Exit(code=1)),
    ],
    ids=["a crash", "a start that failed", "a traceback", "an end in the middle", "a number"],
)
def test_how_a_job_ended_is_told_without_it(settings: Settings, runner: ScriptedRunner) -> None:
    with JobExecutionManager(settings, runners=[runner]) as manager:
        parcel = Parcel(secrets={"A": SECRET, "B": SECRET[:8] + "\n" + SECRET[8:], "C": "12345"})
        job = manager.submit(JobRequest(work=CodeWork("1"), runner="scripted"), parcel)
        ended = manager.wait(job.id, GUARD)
        events = manager.events(job.id)
    assert SECRET not in repr([event for event in events if not isinstance(event, Stream)]) + ended.message
    assert "12345" not in encode_batch(events).decode()
    assert text(events, "stderr") in ("", "x" + SECRET[:9])


def test_every_text_is_looked_through_and_nothing_else() -> None:
    seen = Redaction(["info", "warning", "12345"])(
        [
            LogUpdate(content="info: 12345", severity="info"),
            Notification(content="warning", severity="warning"),
            NodeProgress(progress=12345, label="info", chunk="info", unit="info"),
            Display(data={"text/plain": "info", "application/json": {"info": [12345, 1, True, None]}}),
            Display(data={"image/png": "12345+info==", "image/svg+xml": "<!--info-->"}),
            OutputUpdate(output_name="info", value="12345", output_type="str", metadata={"path": "/info/x"}),
            END,
        ]
    )
    assert seen == [
        LogUpdate(content="***: ***", severity="info"),
        Notification(content="***", severity="warning"),
        NodeProgress(progress=12345, label="***", chunk="***", unit="***"),
        Display(data={"text/plain": "***", "application/json": {"***": ["***", 1, True, None]}}),
        Display(data={"image/png": "12345+info==", "image/svg+xml": "<!--***-->"}),
        OutputUpdate(output_name="***", value="***", output_type="str", metadata={"path": "/info/x"}),
        END,
    ]


def test_the_end_of_a_text_waits_for_the_next_and_keeps_its_place() -> None:
    redact = Redaction(["secret"])
    assert redact([Stream(name="stdout", text="a sec")]) == [Stream(name="stdout", text="a ")]
    assert redact([UsageUpdate()]) == [UsageUpdate()]
    assert redact([Stream(name="stdout", text="ond")]) == [Stream(name="stdout", text="second")]
    assert redact([Stream(name="stdout", text="s")]) == []
    both = [Stream(name="stdout", text="s"), Stream(name="stderr", text="x")]
    assert redact([Stream(name="stderr", text="xs")]) == both
    assert redact([ClearOutput()]) == [Stream(name="stderr", text="s"), ClearOutput()]


@given(st.lists(st.text("ab*", max_size=9), max_size=6), st.lists(st.text("ab*", min_size=4, max_size=12), min_size=1))
@example(["abab", "abab*"], ["abab", "abababab"])
def test_a_text_reads_the_same_in_one_piece_and_in_many(pieces: list[str], secrets: list[str]) -> None:
    redact = Redaction(secrets)
    whole = Redaction(secrets)([Stream(name="stdout", text="".join(pieces)), END])
    cut = [event for piece in pieces for event in redact([Stream(name="stdout", text=piece)])] + redact([END])
    assert text(cut) == text(whole)
    assert "" not in [event.text for event in cut if isinstance(event, Stream)]


def test_what_is_too_short_or_not_there_costs_nothing() -> None:
    assert redaction([]) is None
    assert redaction(["", "abc", "  a\n"]) is None
    assert redaction(["", "abcd"]) is not None


def test_json_deeper_than_anybody_reads_is_not_recorded() -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    assert Redaction(["secret"]).value(deep) == "***"


def test_a_secret_as_bytes_is_one_also_with_letters_beyond_ascii() -> None:
    redact = redaction(["größe-7f"])
    assert redact is not None
    assert redact.text(repr("größe-7f".encode())) == "b'***'"


def test_each_long_line_of_a_secret_is_one_also_where_the_lines_stand_apart() -> None:
    body = ["MIIEvQIBADANBgkqhkiG9w0B", "AQEFAASCBKcwggSjAgEAAoIB"]
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", *body, "short==", "-----END PRIVATE KEY-----", ""])
    redact = redaction([key])
    assert redact is not None
    for number, line in enumerate(body):
        assert redact.text(f"{number}: {line}") == f"{number}: ***"
        assert redact.text(f"{line[:8]} short==") == f"{line[:8]} short=="
    assert redact.text(key) == "***\n"
    assert redact.text(key.replace("\n", "\r\n")) == "***\r\n***\r\n***\r\nshort==\r\n***\r\n"

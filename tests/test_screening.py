"""What of an untrusted job's reports gets through."""

from __future__ import annotations

import base64
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import ProtocolError
from nodetool_jupyter.events import (
    ClearOutput,
    Display,
    Exit,
    LogUpdate,
    NodeProgress,
    Notification,
    Stream,
    UsageUpdate,
)
from nodetool_jupyter.frames import FilePart, Raised, Returned, Value
from nodetool_jupyter.jobs import CodeWork, JobRequest
from nodetool_jupyter.kept import KeptLog
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.screening import Screen, plain
from nodetool_jupyter.testing import ScriptedRunner

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 8, 8) + b"\x08\x02\x00\x00\x00"
JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00\xff\xd9"


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def show(**fields: object) -> Display:
    [shown] = Screen("job1", max_bytes=100)([Display(**fields)])  # type: ignore[arg-type]
    assert isinstance(shown, Display)
    return shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[31mred\x1b[0m\n", "\x1b[31mred\x1b[0m\n"),
        ("\x1b]52;c;cm0gLXJmIC8=\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP+q544e\x1b\\x", "x"),
        ("\x9d0;title\x9cx", "x"),
        ("a\x1b[2J\x1b[1;1Hb", "ab"),
        ("\x1bc\x1b(Bx", "x"),
        ("\x07\x00\x7f\x85x", "x"),
        ("10%\r20%\tdone\n", "10%\r20%\tdone\n"),
        ("grüße 漢字 🎉", "grüße 漢字 🎉"),
    ],
)
def test_a_terminal_gets_colours_and_nothing_else(written: str, shown: str) -> None:
    assert plain(written) == shown


@given(st.text(alphabet="\x1b[]P;?0123456789mHJ\\\x07\x90\x9b\x9c\x9dax\n", max_size=60), st.integers(0, 60))
def test_no_sequence_gets_through_in_one_piece_or_in_two(written: str, cut: int) -> None:
    for shown in (plain(written), plain(written[:cut]) + plain(written[cut:])):
        assert not re.search(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]", re.sub(r"\x1b\[[0-9;:]*m", "", shown))


def test_every_text_of_a_report_is_plain() -> None:
    bad = "a\x1b]0;x\x07b\r\b"
    sent = [
        Stream(name="stdout", text=bad),
        LogUpdate(content=bad, node_name=bad),
        Notification(content=bad),
        NodeProgress(progress=1, label=bad, chunk=bad, unit=bad),
        Raised(bad, bad, traceback=(bad, bad)),
        Display(data={"text/plain": bad}),
    ]
    written, *said, shown = Screen("j", max_bytes=1)(sent)
    assert not re.search(r"\\x1b", repr([written, said, shown]))
    assert not re.search(r"\\r|\\x08", repr(said))
    [bar] = Screen("j", max_bytes=1)([NodeProgress(progress=1, label="9 of\n✔ done")])
    assert isinstance(bar, NodeProgress)
    assert bar.label == "9 of ✔ done"


@pytest.mark.parametrize(
    "mime",
    [
        *("text/html", "image/svg+xml", "application/javascript", "text/latex", "text/markdown"),
        *("application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json", "application/pdf", "video/mp4"),
    ],
)
def test_markup_and_scripts_are_not_shown(mime: str) -> None:
    assert show(data={mime: "<svg onload=alert(1)>"}).data == {
        "text/plain": f"[{mime}: not shown, the job is untrusted]"
    }
    assert show(data={mime: "<b>", "text/plain": "b"}).data == {"text/plain": "b"}


@pytest.mark.parametrize(("mime", "data"), [("image/png", PNG), ("image/jpeg", JPEG)])
def test_pictures_are_shown(mime: str, data: bytes) -> None:
    assert show(data={mime: text(data)}).data == {mime: text(data)}


@pytest.mark.parametrize(
    ("mime", "content"),
    [
        ("image/png", text(JPEG)),
        ("image/jpeg", text(PNG)),
        ("image/png", text(b"<svg onload=alert(1)>")),
        ("image/png", "not base64 <script>"),
        ("image/png", text(PNG[:14])),
        ("image/png", text(PNG[:16] + struct.pack(">II", 60_000, 60_000))),
        ("image/jpeg", text(JPEG[:6])),
        ("image/jpeg", text(b"\xff\xd8\xff\xe0\x00\x00" * 3)),
        ("image/png", ["a list"]),
        ("text/plain", {"not": "text"}),
        ("application/json", {"x": "y" * 300_000}),
    ],
)
def test_what_is_not_what_it_says_is_not_shown(mime: str, content: object) -> None:
    assert show(data={mime: content}).data == {"text/plain": f"[{mime}: not shown, the job is untrusted]"}


def test_json_is_data() -> None:
    assert show(data={"application/json": {"a": [1, "<b>"]}}).data == {"application/json": {"a": [1, "<b>"]}}


def test_an_untrusted_display_can_not_replace_what_another_cell_shows() -> None:
    assert show(data={}, display_id="theirs", update=True).display_id == "job1-theirs"
    assert show(data={}).display_id == ""
    assert show(data={"text/plain": "x"}, metadata={"text/plain": {"trusted": True}}).metadata == {}


@pytest.mark.parametrize("kind", ["pickle", "object"])
def test_a_pickle_ends_the_job(kind: str) -> None:
    with pytest.raises(ProtocolError, match="untrusted and sent 'x' as a pickle"):
        Screen("j", max_bytes=100)([Value("x", kind, body=memoryview(b"."))])  # type: ignore[arg-type]


def test_values_and_files_share_one_budget() -> None:
    screen = Screen("j", max_bytes=10)
    screen([Value("x", "bytes", sizes=(6,), body=memoryview(b"123456")), FilePart("f", body=b"1234")])
    with pytest.raises(ProtocolError, match=r"more than 10 B.*--max-transfer"):
        screen([FilePart("f", body=b"1")])


def test_what_says_nothing_passes() -> None:
    sent = [Returned(), ClearOutput(), UsageUpdate(memory_bytes=1)]
    assert Screen("j", max_bytes=1)(sent) == sent  # type: ignore[arg-type]


def test_a_log_is_cut_at_a_number_of_events_too() -> None:
    log = KeptLog(1 << 20, max_events=3)
    for n in range(10):
        log.add(LogUpdate(content=str(n)))
    *kept, note = log.take()
    assert [event.content for event in kept if isinstance(event, LogUpdate)] == ["0", "1", "2"]
    assert isinstance(note, Notification)
    assert note.content == "Output beyond 3 events is not kept."


def test_long_labels_and_large_json_count_by_their_size() -> None:
    log = KeptLog(10_000)
    log.add(NodeProgress(progress=1, label="x" * 6_000))
    log.add(Display(data={"application/json": ["x" * 6_000]}))
    assert [type(event) for event in log.take()] == [NodeProgress, Notification]


@pytest.mark.parametrize(
    "runner",
    [
        ScriptedRunner(
            Stream(name="stderr", text="x"),
            exit=Exit(cause="crashed", signal="SIGABRT", detail="Fatal \x1b]52;c;eA==\x07\x1b[2J\rend"),
        ),
        ScriptedRunner(fail_to_start="The image says \x1b]52;c;eA==\x07\x1b[2J\rend"),
    ],
    ids=["a crash", "a start that failed"],
)
def test_how_a_job_ended_is_told_in_plain_text_whatever_it_wrote_last(
    settings: Settings, runner: ScriptedRunner
) -> None:
    with JobExecutionManager(settings, runners=[runner]) as manager:
        job = manager.submit(JobRequest(work=CodeWork("1"), runner="scripted"))
        ended = manager.wait(job.id)
        events = manager.events(job.id)
    assert "end" in ended.message
    assert "\x1b" not in ended.message
    assert "\r" not in ended.message
    assert not any("\\x1b" in repr(event) for event in events)

"""A job's output in its cell: in order, no more than asked for, in few messages."""

from __future__ import annotations

import contextvars
import io
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from nodetool_jupyter.events import AnyEvent, ClearOutput, Display, JobUpdate, NodeProgress, Notification, Stream
from nodetool_jupyter.notebook.faces import NoFace, TerminalLine, TextInCell
from nodetool_jupyter.notebook.output import CellOutput, condensed
from nodetool_jupyter.notebook.painter import Canvas, Painter
from nodetool_jupyter.view import View, fold_all
from tests.conftest import HANG_GUARD_SECONDS


def out(text: str) -> Stream:
    return Stream(name="stdout", text=text)


def shown(text: str, **fields: Any) -> Display:
    return Display(data={"text/plain": text}, **fields)


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([out("a"), out("b")], [out("ab")]),
        ([out("a"), Stream(name="stderr", text="b"), out("c")], [out("a"), Stream(name="stderr", text="b"), out("c")]),
        ([out("\r1%"), out("\r2%"), out("\r3%")], [out("\r3%")]),
        ([out("old"), ClearOutput(), out("new")], [ClearOutput(), out("new")]),
        ([out("old"), ClearOutput(wait=True)], [out("old"), ClearOutput(wait=True)]),
        ([out("old"), ClearOutput(wait=True), out("new")], [ClearOutput(wait=True), out("new")]),
        (
            [shown("1", display_id="d"), *(shown(str(n), display_id="d", update=True) for n in range(9))],
            [shown("1", display_id="d"), shown("8", display_id="d", update=True)],
        ),
        ([NodeProgress(progress=1)], []),
    ],
)
def test_only_what_would_be_left_is_shown(events: Sequence[AnyEvent], left: Sequence[AnyEvent]) -> None:
    assert condensed(events) == left


def test_much_text_is_joined_in_one_piece() -> None:
    assert condensed([out("x" * 1000)] * 1000) == [out("x" * 1_000_000)]


class Displays:
    """Remembers what was published."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def publish(self, data: dict[str, Any], transient: Any, update: bool, metadata: Any = None) -> None:
        self.messages.append((data.get("text/plain", "picture"), transient, update))

    def clear_output(self, wait: bool) -> None:
        self.messages.append(("clear", wait))


class Shell:
    def __init__(self) -> None:
        self.display_pub = Displays()


def output(max_bytes: int = 1000, *, stream: io.StringIO | None = None, **options: Any) -> tuple[CellOutput, list[Any]]:
    shell = Shell()
    stream = stream or io.StringIO()
    with redirect_stdout(stream), redirect_stderr(stream):
        made = CellOutput(
            shell, contextvars.copy_context(), max_bytes=max_bytes, more="See %nodetool logs 1a2b.", **options
        )
    return made, shell.display_pub.messages


def test_text_beyond_the_limit_is_cut_and_said_so_once() -> None:
    stdout = io.StringIO()
    made, _ = output(10, stream=stdout)
    for _ in range(3):
        made.publish([out("0123456")])
    assert stdout.getvalue() == "0123456012\n… Output beyond 10 B is not shown. See %nodetool logs 1a2b.\n"


def test_the_value_of_the_cell_is_shown_even_when_the_room_is_used_up() -> None:
    made, messages = output(100)
    made.publish([out("x" * 200), shown("lost" * 10), shown("42", result=True)])
    assert messages == [("42", None, False)]


def test_a_picture_takes_little_of_the_room() -> None:
    made, messages = output(100)
    made.publish([Display(data={"image/png": "x" * 1000}), shown("text")])
    assert [message[0] for message in messages] == ["picture", "text"]


def test_clearing_waits_for_the_next_output_and_brings_the_card_back() -> None:
    back: list[str] = []
    made, messages = output(again=lambda: back.append("card"))
    made.publish([ClearOutput(wait=True)])
    assert messages == []
    made.publish([out("new")])
    assert messages == [("clear", True)]
    assert back == ["card"]


def test_updates_go_to_what_they_update() -> None:
    made, messages = output()
    made.publish([shown("a", display_id="d")])
    made.publish([shown("b", display_id="d", update=True)])
    assert messages == [("a", {"display_id": "d"}, False), ("b", {"display_id": "d"}, True)]


def test_a_flood_of_displays_is_shown_in_turns_and_in_order() -> None:
    made, messages = output(1 << 20)
    left = made.publish([shown(str(n)) for n in range(120)])
    assert len(messages) == 50
    while left:
        left = made.publish(left)
    assert [message[0] for message in messages] == [str(n) for n in range(120)]


def test_the_streams_are_the_ones_of_the_cell_that_started_the_job() -> None:
    stdout = io.StringIO()
    made, _ = output(stream=stdout)
    made.publish([out("mine")])
    assert stdout.getvalue() == "mine"


class Counting(NoFace):
    """Counts how often it is painted."""

    def __init__(self) -> None:
        self.painted = 0
        self.last: View | None = None
        self.repeated = threading.Event()

    def paint(self, view: View) -> None:
        self.painted += 1

    def finish(self, view: View) -> None:
        self.last = view

    def repeat(self, view: View) -> None:
        self.repeated.set()


class Failing:
    """Fails the first time."""

    def __init__(self) -> None:
        self.calls = 0

    def publish(self, events: Sequence[AnyEvent]) -> Sequence[AnyEvent]:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("a broken front end")
        return ()


@pytest.fixture
def painter() -> Any:
    made = Painter()
    yield made
    made.close()


def progress(n: int) -> NodeProgress:
    return NodeProgress(progress=n, seq=n + 1)


def test_thousands_of_events_are_painted_a_few_times_and_the_last_state_twice(painter: Painter) -> None:
    face = Counting()
    made, _ = output()
    canvas = Canvas(painter, View(), face, made)
    for n in range(5_000):
        canvas.hear([progress(n)])
    canvas.hear([JobUpdate(status="starting", seq=5_001), JobUpdate(status="completed", seq=5_002)])
    assert canvas.done.wait(HANG_GUARD_SECONDS)
    assert face.painted < 50
    assert face.last is not None
    assert face.last.bars[0].progress == 4_999
    assert face.last.status == "completed"
    assert face.repeated.wait(HANG_GUARD_SECONDS)


@pytest.mark.filterwarnings("ignore")
def test_a_front_end_that_fails_once_does_not_keep_the_cell_waiting(
    painter: Painter, caplog: pytest.LogCaptureFixture
) -> None:
    canvas = Canvas(painter, View(), Counting(), Failing())
    canvas.hear([JobUpdate(status="failed", seq=1)])
    assert canvas.done.wait(HANG_GUARD_SECONDS)
    logged = threading.Event()
    painter.post(logged.set)
    assert logged.wait(HANG_GUARD_SECONDS)
    assert "a broken front end" in caplog.text


def test_with_many_jobs_each_is_painted_less_often(painter: Painter) -> None:
    painter.active = 50
    assert painter.interval_seconds == 0.5


def test_a_terminal_is_given_back_before_the_prompt_and_nothing_is_drawn_into_it_any_more() -> None:
    screen = io.StringIO()
    painter = Painter()
    try:
        output = CellOutput(None, contextvars.copy_context(), max_bytes=100, more="")
        canvas = Canvas(painter, View(name="train", runner="subprocess"), TerminalLine(screen, output), output)
        canvas.hear([JobUpdate(status="running")])
        canvas.abandon()
        left = screen.getvalue()
        assert "running" in left
        assert left.endswith("\r\x1b[K")
        canvas.hear([JobUpdate(status="completed")])
        canvas._strike()
    finally:
        painter.close()
    assert screen.getvalue() == left
    assert painter.active == 0


STUCK = Notification(content="The thread is in `time.sleep(60)` at Cell In[4], line 2.")


def test_a_warning_is_seen_while_the_job_runs_and_not_only_at_its_end() -> None:
    shell = Shell()
    running = fold_all(View(name="train", runner="threaded"), [JobUpdate(status="running"), STUCK])
    TextInCell(shell, contextvars.copy_context(), running)
    assert STUCK.content in shell.display_pub.messages[-1][0]


def test_a_terminal_says_each_warning_once_when_it_comes() -> None:
    screen = io.StringIO()
    face = TerminalLine(screen, CellOutput(None, contextvars.copy_context(), max_bytes=100, more=""))
    view = fold_all(View(name="train", runner="threaded"), [JobUpdate(status="running"), STUCK])
    face.paint(view)
    assert f"{STUCK.content}\n" in screen.getvalue()
    face.paint(view)
    face.finish(fold_all(view, [JobUpdate(status="completed"), Notification(content="sys.path was changed")]))
    assert screen.getvalue().count(STUCK.content) == 1
    assert screen.getvalue().endswith("\n  warning: sys.path was changed\n")

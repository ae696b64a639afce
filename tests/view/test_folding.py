"""What a person sees after which events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodetool_jupyter import events as ev
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus, ResourceLimits
from nodetool_jupyter.view import (
    Shown,
    Text,
    View,
    bar_lines,
    begin,
    elapsed_seconds,
    final_line,
    final_text,
    fold,
    fold_all,
    plain_text,
    remaining_seconds,
    status_line,
    view_html,
    view_text,
)
from nodetool_jupyter.view.text import left_text, number

GIB = 1 << 30


def at(ts: float, event: ev.AnyEvent, seq: int = 0) -> ev.AnyEvent:
    return ev.stamp(event, "1a2b", seq, ts)


def status(word: str, ts: float = 0.0, **fields: Any) -> ev.AnyEvent:
    return at(ts, ev.JobUpdate(status=word, **fields))


def started(**request: Any) -> View:
    asked = JobRequest(work=CodeWork("1", filename="Cell In[3]"), runner="subprocess", **request)
    job = Job(id="1a2b3c4d5e", user="me", owner="o", request=asked, created_at=0.0)
    return fold_all(begin(job), [status("queued", 9.0), status("starting", 10.0), status("running", 10.5)])


def progress(done: float, total: float | None = 10, ts: float = 0.0, **fields: Any) -> ev.AnyEvent:
    return at(ts, ev.NodeProgress(progress=done, total=total, **fields))


def test_time_counts_from_the_start_and_stops_at_the_end() -> None:
    view = started()
    assert elapsed_seconds(view, 12.0) == 2.0
    ended = fold(view, status("completed", 15.0, duration=4.5))
    assert elapsed_seconds(ended, 1000.0) == 4.5


def test_a_job_that_waits_has_no_time_yet() -> None:
    assert elapsed_seconds(View(), 5.0) is None


def test_what_is_left_comes_from_the_outermost_bar() -> None:
    view = fold_all(started(), [progress(0, ts=20.0), progress(5, ts=25.0), progress(1, 2, ts=25.0, bar="1", depth=1)])
    assert remaining_seconds(view, 26.0) == 4.0


def test_without_a_bar_what_is_left_comes_from_the_last_run() -> None:
    job = Job(id="1", user="me", owner="o", request=JobRequest(work=CodeWork("1")), created_at=0.0)
    view = fold_all(begin(job, expected_seconds=60.0), [status("starting", 10.0), status("running", 10.0)])
    assert remaining_seconds(view, 30.0) == 40.0
    assert remaining_seconds(view, 80.0) is None


def test_nothing_is_said_of_what_is_left_when_nothing_is_known() -> None:
    assert remaining_seconds(started(), 12.0) is None


def test_a_bar_that_begins_anew_is_timed_anew() -> None:
    view = fold_all(started(), [progress(2, ts=20.0), progress(9, ts=21.0), progress(0, ts=30.0), progress(5, ts=40.0)])
    assert remaining_seconds(view, 40.0) == 10.0


def test_inner_bars_go_when_they_are_done_and_outer_ones_stay() -> None:
    events = [progress(1, label="outer"), progress(3, 3, bar="1", depth=1, closed=True), progress(10, closed=True)]
    assert [bar.label for bar in fold_all(started(), events).bars] == ["outer"]


def test_thousands_of_bars_take_bounded_room_and_say_so() -> None:
    view = fold_all(started(), [progress(n % 7, bar=str(n)) for n in range(2_000)])
    assert len(view.bars) <= 40
    assert bar_lines(view)[-1] == "… and more bars"


def test_the_same_event_twice_changes_nothing() -> None:
    event = at(1.0, ev.Stream(name="stdout", text="x"), seq=4)
    once = fold(started(), event)
    assert fold(once, event) == once


def test_outputs_stay_in_order_and_streams_are_joined() -> None:
    view = fold_all(
        started(),
        [
            ev.Stream(name="stdout", text="a"),
            ev.Stream(name="stdout", text="b\n"),
            ev.Display(data={"text/plain": "plot"}, display_id="p"),
            ev.Stream(name="stderr", text="c"),
            ev.Display(data={"text/plain": "newer plot"}, display_id="p", update=True),
            ev.Display(data={"text/plain": "42"}, result=True),
        ],
    )
    first, plot, second, result = view.outputs
    assert isinstance(first, Text)
    assert isinstance(second, Text)
    assert plain_text(first.lines) == "ab\n"
    assert second.name == "stderr"
    assert plot == Shown({"text/plain": "newer plot"}, display_id="p")
    assert isinstance(result, Shown)
    assert result.result


def test_clearing_waits_for_what_comes_next_when_asked_to() -> None:
    view = fold_all(started(), [ev.Stream(name="stdout", text="old"), ev.ClearOutput(wait=True)])
    assert len(view.outputs) == 1
    view = fold(view, ev.Display(data={"text/plain": "new"}))
    assert view.outputs == (Shown({"text/plain": "new"}),)
    assert fold(view, ev.ClearOutput()).outputs == ()


def test_log_records_stand_apart_because_their_handlers_write_them_too() -> None:
    view = fold(started(), ev.LogUpdate(content="low disk", severity="warning", node_name="app"))
    assert [(one.severity, one.name, one.content) for one in view.records] == [("warning", "app", "low disk")]
    assert plain_text(view.tail) == ""


def test_memory_is_kept_as_a_short_history_and_a_peak() -> None:
    view = fold_all(started(), [ev.UsageUpdate(memory_bytes=n) for n in range(100)] + [ev.UsageUpdate(memory_bytes=5)])
    assert view.usage.peak_memory_bytes == 99
    assert view.history[-1] == 5
    assert len(view.history) == 60


def finished(word: str = "completed", **fields: Any) -> View:
    view = fold_all(started(name="train"), [ev.UsageUpdate(memory_bytes=int(1.3 * GIB))])
    return fold(view, status(word, 22.8, duration=12.3, **fields))


def test_the_last_line_of_a_job_says_how_it_went() -> None:
    assert final_line(finished()) == "✔ train · subprocess · 12.3 s · peak 1.3 GiB"


def test_the_last_line_of_a_failed_job_says_why() -> None:
    message = "Killed: memory limit 2 GiB reached. Rerun with --memory 4g."
    view = finished("failed", message=message, reason="out_of_memory")
    assert final_line(view) == f"✘ train · subprocess · failed · 12.3 s · peak 1.3 GiB · {message}"
    assert view.cause == "Killed: memory limit 2 GiB reached."
    assert view.remedy == "Rerun with --memory 4g."


def test_a_stable_line_has_no_times_sizes_or_ids() -> None:
    assert final_line(finished(), stable=True) == "✔ train · subprocess"
    assert final_line(fold(started(), status("completed", duration=1.0)), stable=True) == "✔ cell · subprocess"


def test_the_line_of_a_running_job_names_bar_time_and_memory() -> None:
    files = [progress(4, 20, ts=11.0, label="files", unit="f"), progress(5, 20, ts=12.0, label="files", unit="f")]
    view = started(name="train", limits=ResourceLimits(memory_bytes=2 * GIB))
    view = fold_all(view, [*files, ev.UsageUpdate(memory_bytes=GIB)])
    line = status_line(view, 12.0)
    assert line == "● train · subprocess · running · files 25% · 5 of 20 f · 2.0 s · about 15 s left · 1 GiB of 2 GiB"
    assert len(status_line(view, 12.0, columns=30)) == 30


def test_a_bar_is_counted_as_a_person_would() -> None:
    view = fold(started(), progress(12, 6000, label="", chunk="step 12"))
    assert bar_lines(view)[0].endswith("0% · 12 of 6,000 · step 12")
    assert " · 0% · 12 of 6,000 · step 12" in status_line(view, 11.0)
    assert [number(value) for value in (950, 12_500, 0.25, 999_999, 3_200_000)] == [
        *("950", "12,500", "0.25", "999,999", "3.2M")
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.48, "less than 1 s left"),
        (1.5, "about 2 s left"),
        (12.3, "about 12 s left"),
        (59.4, "about 59 s left"),
        (59.6, "about 1 min left"),
        (185, "about 3 min left"),
        (3599, "about 1 h left"),
        (4830, "about 1 h 21 min left"),
    ],
)
def test_what_is_left_is_as_rough_as_it_is_known(seconds: float, said: str) -> None:
    assert left_text(seconds) == said


def test_the_long_text_names_what_matters() -> None:
    view = fold(finished(), ev.Notification(content="cwd was changed"))
    text = view_text(fold(view, ev.Isolation(runner="subprocess", profile="default", not_held=("cpus",))), 30.0)
    for part in ("1a2b3c4d5e", "not held   processors", "cwd was changed", "1.3 GiB"):
        assert part in text


def test_what_a_job_says_in_several_lines_does_not_look_like_what_is_said_of_it() -> None:
    view = fold(finished(), ev.Notification(content="slow\n  boundary   container"))
    assert "\n  boundary" not in view_text(view, 30.0) + final_text(view)


def test_the_receipt_of_a_stop_says_what_was_sent_when_and_how_many_are_gone() -> None:
    sent = (ev.Signalled("SIGINT", 0.0004, 1), ev.Signalled("SIGTERM", 2.5, 3))
    view = fold(finished(), ev.Exit(signal="SIGTERM", sent=sent, processes_reaped=3))
    said = "SIGINT at once, SIGTERM after 2.5 s · 3 processes reaped"
    assert f"stop       {said}" in view_text(view, 30.0)
    assert said in view_html(view)
    assert "SIGINT" not in view_text(view, 30.0, stable=True)
    assert "reaped" not in view_text(fold(finished(), ev.Exit(code=0, processes_reaped=1)), 30.0)


def test_warnings_are_seen_without_unfolding_anything() -> None:
    view = fold_all(
        finished(), [ev.Notification(content="cwd was changed"), ev.Notification(content="by the way", severity="info")]
    )
    view = fold(view, ev.Isolation(runner="threaded", profile="default", not_held=("cpus",)))
    assert (
        final_text(view, stable=True)
        == "✔ train · subprocess\n  warning: Not held here: processors.\n  warning: cwd was changed"
    )
    outside = view_html(view).partition("</details>")[2]
    assert "cwd was changed" in outside
    assert "by the way" not in outside


EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>&\"'"


def test_whatever_a_job_says_is_escaped_in_html() -> None:
    view = fold_all(
        started(name=EVIL),
        [
            ev.Stream(name="stdout", text=EVIL),
            progress(1, label=EVIL, chunk=EVIL),
            ev.Notification(content=EVIL),
            ev.OutputUpdate(output_name=EVIL),
            ev.Isolation(runner=EVIL, profile=EVIL, held={EVIL: EVIL}),
            status("failed", message=EVIL),
        ],
    )
    html = view_html(view)
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


@given(st.text())
def test_any_name_can_be_shown(name: str) -> None:
    view = started(name=name)
    assert isinstance(view_html(view) + view_text(view, 11.0), str)


def test_html_has_no_script_and_nothing_from_elsewhere() -> None:
    html = view_html(finished())
    assert "script" not in html
    assert "http" not in html
    assert "var(--jp-" in html


def test_a_final_view_is_final() -> None:
    assert finished("cancelled").status is JobStatus.CANCELLED
    assert final_line(finished("cancelled")).startswith("■ train · subprocess · cancelled")

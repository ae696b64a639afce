"""The card: what is on it, what its buttons do, and what a page may send."""

from __future__ import annotations

import contextvars
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from nodetool_jupyter import events as ev
from nodetool_jupyter.jobs import CodeWork, Job, JobRequest, JobStatus, ResourceLimits
from nodetool_jupyter.notebook import card as cards
from nodetool_jupyter.notebook.card import CardFace, card_state
from nodetool_jupyter.view import View, begin, fold, fold_all


class Displays:
    """Remembers what was published."""

    def __init__(self) -> None:
        self.published: list[tuple[dict[str, Any], dict[str, Any], bool]] = []

    def publish(self, data: dict[str, Any], transient: dict[str, Any], update: bool) -> None:
        self.published.append((data, transient, update))


class Shell:
    def __init__(self) -> None:
        self.display_pub = Displays()


def view(*events: ev.AnyEvent) -> View:
    request = JobRequest(
        work=CodeWork("1", filename="Cell In[3]"),
        runner="subprocess",
        name="train",
        limits=ResourceLimits(memory_bytes=2 << 30),
    )
    started = begin(Job(id="1a2b3c4d5e", user="me", owner="o", request=request, created_at=0.0))
    running = [ev.stamp(ev.JobUpdate(status=word), "1a2b3c4d5e", 0, 10.0) for word in ("starting", "running")]
    return fold_all(started, [*running, *events])


Made = tuple[CardFace, Displays, list[str]]


@pytest.fixture
def make() -> Iterator[Callable[[], Made]]:
    made: list[CardFace] = []

    def build() -> Made:
        shell, done = Shell(), []

        def do(what: str) -> str:
            done.append(what)
            return "It runs elsewhere." if done.count("cancel") > 1 else ""

        face = CardFace(
            shell,
            contextvars.copy_context(),
            view(),
            post=lambda callback: callback(),
            actions={"cancel": lambda: do("cancel"), "detach": lambda: do("detach")},
            waiting=lambda: "detach" not in done,
        )
        made.append(face)
        return face, shell.display_pub, done

    yield build
    for face in made:
        face.card.close()
    cards._cards.clear()


def press(face: CardFace, content: Any) -> None:
    """What the page sends."""
    face.card._handle_custom_msg(content, [])


def test_a_card_says_what_a_queued_job_waits_for() -> None:
    waiting = replace(view(), status=JobStatus.QUEUED, waits="waits for a GPU that another job has")
    state = card_state(waiting, 0.0, waiting=False)
    assert state["waits"] == "waits for a GPU that another job has"
    assert state["line"].startswith("○ train · subprocess · queued · waits for a GPU that another job has")
    running = card_state(replace(waiting, status=JobStatus.RUNNING), 0.0, waiting=False)
    assert "waits for" not in running["line"]


def test_the_state_holds_all_that_is_shown() -> None:
    state = card_state(
        view(
            ev.NodeProgress(progress=5, total=20, label="files", ts=10.0),
            ev.UsageUpdate(memory_bytes=1 << 30, cpu_seconds=2.0),
            ev.Notification(content="careful"),
        ),
        12.0,
        waiting=True,
    )
    assert (state["title"], state["runner"], state["status"], state["elapsed"]) == (
        "train",
        "subprocess",
        "running",
        2.0,
    )
    assert state["bars"] == [
        {"label": "files", "amount": "25% · 5 of 20", "note": "", "fraction": 0.25, "depth": 0, "closed": False}
    ]
    assert state["usage"] == "1 GiB of 2 GiB, 2.0 s CPU"
    assert state["memory_limit"] == 2 << 30
    assert state["notes"] == [{"severity": "warning", "content": "careful"}]
    json.dumps(state, allow_nan=False)


def test_the_first_bundle_has_constant_text_and_no_html(make: Callable[[], Made]) -> None:
    texts = []
    for _ in range(2):
        face, displays, _ = make()
        data, _, update = displays.published[0]
        assert not update
        assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == face.card.model_id
        texts.append(data["text/plain"])
    assert texts[0] == texts[1]


def test_the_last_bundle_is_static_and_takes_the_place_of_the_first(make: Callable[[], Made]) -> None:
    face, displays, _ = make()
    face.finish(fold(view(), ev.stamp(ev.JobUpdate(status="completed", duration=2.0), "", 0, 12.0)))
    (_, first, _), (data, last, update) = displays.published
    assert update
    assert first == last
    assert data["text/plain"] == "✔ train · subprocess · 2.0 s"
    assert set(data) == {"text/plain", "text/html"}
    assert face.card.state["final"]


def test_buttons_do_what_they_say(make: Callable[[], Made]) -> None:
    face, _, done = make()
    assert face.card.state["waiting"]
    press(face, {"do": "detach"})
    assert not face.card.state["waiting"]
    press(face, {"do": "cancel"})
    assert done == ["detach", "cancel"]
    assert face.card.state["said"] == ""


def test_what_a_page_sends_again_is_heard_once_and_in_order(make: Callable[[], Made]) -> None:
    face, _, done = make()
    for number in (1, 1, 2, 1, 2):
        press(face, {"do": ["", "detach", "cancel"][number], "page": "one", "n": number})
    press(face, {"do": "detach", "page": "two", "n": 1})
    assert done == ["detach", "cancel", "detach"]


def test_what_could_not_be_done_is_said_on_the_card(make: Callable[[], Made]) -> None:
    face, _, _ = make()
    press(face, {"do": "cancel"})
    press(face, {"do": "cancel"})
    assert face.card.state["said"] == "It runs elsewhere."


def test_the_log_is_sent_only_while_it_is_open(make: Callable[[], Made]) -> None:
    face, _, _ = make()
    face.paint(view(ev.Stream(name="stdout", text="line\n")))
    assert face.card.log["text"] == ""
    press(face, {"do": "log", "open": True})
    assert face.card.log == {"open": True, "replayed": False, "text": "line\n"}
    press(face, {"do": "log", "open": False})
    assert face.card.log == {"open": False, "replayed": False, "text": ""}


def test_a_page_that_comes_later_gets_the_log_marked_as_replayed(make: Callable[[], Made]) -> None:
    face, _, _ = make()
    face.paint(view(ev.Stream(name="stdout", text="line\n")))
    press(face, {"do": "page", "page": "one"})
    press(face, {"do": "page", "page": "one"})
    assert not face.card.log["open"]
    press(face, {"do": "page", "page": "two"})
    assert face.card.log == {"open": True, "replayed": True, "text": "line\n"}


@pytest.mark.parametrize(
    "content",
    [None, 5, "cancel", [], {}, {"do": None}, {"do": ["cancel"]}, {"do": "close"}, {"do": "page"}, {"do": "log"}],
)
def test_a_page_may_send_anything(make: Callable[[], Made], content: Any) -> None:
    face, _, done = make()
    press(face, content)
    assert done == []


def test_the_last_state_is_sent_once_more(make: Callable[[], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    face, _, _ = make()
    sent: list[Any] = []
    monkeypatch.setattr(face.card, "send_state", sent.append)
    face.repeat(view())
    assert sent == ["state"]


def test_clicks_keep_the_shell_that_the_page_chose(make: Callable[[], Made]) -> None:
    class Comm:
        def _reply_subshell_for(self, data: Any, default: Any) -> Any:
            return "the blocked main shell"

    comm: Any = Comm()
    cards._keep_subshell(comm)
    assert comm._reply_subshell_for({}, "subshell") == "subshell"
    cards._keep_subshell(object())


def test_cards_of_jobs_long_ended_are_closed(make: Callable[[], Made]) -> None:
    faces = []
    for _ in range(cards._LIVE_CARDS + 5):
        face, _, _ = make()
        faces.append(face)
        face.paint(fold(view(), ev.JobUpdate(status="completed")))
    assert [face.card.comm is None for face in faces] == [True] * 5 + [False] * cards._LIVE_CARDS
    faces[0].repeat(view())
    faces[0].paint(view())


def test_the_page_parses_no_html_and_fetches_nothing() -> None:
    script = cards.JobCard._esm
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "fetch(", "eval(", "import(", "https:"):
        assert word not in script.replace(SVG_NAMESPACE, "")
    assert "https:" not in cards.JobCard._css
    assert "http:" not in cards.JobCard._css


SVG_NAMESPACE = "http://www.w3.org/2000/svg"

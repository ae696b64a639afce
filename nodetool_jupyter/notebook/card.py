"""The card: a widget with the state of one job, and buttons that work while its cell runs."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any
from uuid import uuid4

import anywidget
from traitlets import Dict

from ..quantities import format_size
from ..view import (
    View,
    bar_lines,
    elapsed_seconds,
    final_text,
    isolation_text,
    limits_in_force,
    plain_text,
    remaining_seconds,
    status_line,
    title,
    usage_text,
    view_html,
    warnings,
)
from ..view.text import amount

_WITHOUT_WIDGETS = "A job runs here. `%nodetool status -1` tells how it goes; --progress text shows it as text."
_LOG_LINES = 200
_LOG_CHARACTERS = 16_000
_LIVE_CARDS = 20
_MOST_NOTES = 5
_MOST_PAGES = 50
_cards: deque[JobCard] = deque()
_FOLDER = files(__package__)


class JobCard(anywidget.AnyWidget):
    """What the page shows; its traits are written on the painter's thread only, after it is made."""

    _esm = _FOLDER.joinpath("card.js").read_text(encoding="utf-8")
    _css = _FOLDER.joinpath("card.css").read_text(encoding="utf-8")
    state = Dict().tag(sync=True)
    log = Dict().tag(sync=True)

    def __init__(self, state: dict[str, Any], hear: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(state=state, log={"open": False, "replayed": False, "text": ""})
        _keep_subshell(self.comm)
        self.on_msg(lambda _, content, __: hear(content))


def _keep_subshell(comm: Any) -> None:
    """Let clicks arrive while a cell runs.

    ipykernel 7.4 sends a message of the page to the shell that the comm was last written from, which is
    the one that the running cell blocks; this keeps the one that the page chose.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default


class CardFace:
    """Paints one job's card, and puts static HTML in its place at the end.

    actions: what the buttons do, called on the painter's thread: `cancel`, `detach`; each returns what
    is to be said about it. `waiting` tells whether a cell waits for the job.
    """

    clock_seconds = 0.0

    def __init__(
        self,
        shell: Any,
        context: contextvars.Context,
        first: View,
        *,
        post: Callable[[Callable[[], object]], None],
        actions: Mapping[str, Callable[[], str]],
        waiting: Callable[[], bool],
    ) -> None:
        self._displays = shell.display_pub
        self._context = context
        self._actions = actions
        self._waiting = waiting
        self._view = first
        self._display_id = f"nodetool-{uuid4().hex}"
        self._page = self._said = ""
        self._heard: dict[str, int] = {}
        self._log_open = self._replayed = False
        self.card = JobCard(
            card_state(first, time.time(), waiting=waiting()), lambda said: post(lambda: self._do(said))
        )
        _keep_alive(self.card)
        self._publish(update=False)

    def again(self) -> None:
        """Show the card anew after the cell's output was cleared; called where the job's context is entered."""
        self._publish(update=False)

    def hide(self) -> None:
        """The card shares no line with the output."""

    def paint(self, view: View) -> None:
        """Bring the card up to date."""
        self._view = view
        self._context.run(self._write)

    def finish(self, view: View) -> None:
        """The last state, then the static form that a saved notebook keeps."""
        self.paint(view)
        self._context.run(self._publish, update=True)

    def repeat(self, view: View) -> None:
        """Send the last state again: a server that was flooded drops messages for good."""
        if self.card.comm is not None:
            self._context.run(self.card.send_state, "state")

    def _write(self) -> None:
        if self.card.comm is None:
            return
        self.card.state = {**card_state(self._view, time.time(), waiting=self._waiting()), "said": self._said}
        if self._log_open or self.card.log["open"]:
            text = log_text(self._view) if self._log_open else ""
            self.card.log = {"open": self._log_open, "replayed": self._replayed, "text": text}

    def _publish(self, *, update: bool) -> None:
        if update:
            data: dict[str, Any] = {"text/plain": final_text(self._view), "text/html": view_html(self._view)}
        else:
            view = {"version_major": 2, "version_minor": 0, "model_id": self.card.model_id}
            data = {"text/plain": _WITHOUT_WIDGETS, "application/vnd.jupyter.widget-view+json": view}
        self._displays.publish(data=data, transient={"display_id": self._display_id}, update=update)

    def _do(self, said: Mapping[str, Any]) -> None:
        """What the page asks for; it may send anything."""
        what = said.get("do") if isinstance(said, Mapping) and self._is_news(said) else None
        if what == "page":
            page = str(said.get("page"))[:64]
            came_back = self._page not in ("", page)
            self._page = page
            if came_back and not self._log_open:
                self._log_open = self._replayed = True
        elif what == "log":
            self._log_open, self._replayed = said.get("open") is True, False
        elif isinstance(what, str) and what in self._actions:
            self._said = self._actions[what]()
        self._context.run(self._write)

    def _is_news(self, said: Mapping[str, Any]) -> bool:
        """Whether it was not heard before; a page sends everything more than once, see `tell` in card.js."""
        page, number = str(said.get("page"))[:64], said.get("n")
        if not isinstance(number, int):
            return True
        if number <= self._heard.get(page, 0):
            return False
        if len(self._heard) >= _MOST_PAGES:
            self._heard.clear()
        self._heard[page] = number
        return True


def _keep_alive(card: JobCard) -> None:
    """Cards of jobs long ended are closed, so that neither kernel nor page collects them."""
    _cards.append(card)
    while len(_cards) > _LIVE_CARDS and _cards[0].state["final"]:
        _cards.popleft().close()


def card_state(view: View, now: float, *, waiting: bool) -> dict[str, Any]:
    """All that the card shows, as JSON. `at` is when; `line` and `bar_lines` are the same as text."""
    final = view.status.final
    return {
        "job": view.job_id,
        "title": title(view),
        "runner": view.runner,
        "status": view.status.value,
        "final": final,
        "at": now,
        "elapsed": elapsed_seconds(view, now),
        "left": remaining_seconds(view, now),
        "bars": [
            {
                "label": bar.label,
                "amount": amount(bar),
                "note": bar.note,
                "fraction": bar.fraction,
                "depth": bar.depth,
                "closed": bar.closed,
            }
            for bar in view.bars
        ],
        "more_bars": view.more_bars,
        "usage": usage_text(view),
        "peak": format_size(view.usage.peak_memory_bytes) if view.usage.peak_memory_bytes else "",
        "history": list(view.history),
        "memory_limit": limits_in_force(view.isolation, view.limits).get("memory_bytes"),
        "notes": [{"severity": note.severity, "content": note.content} for note in warnings(view)[-_MOST_NOTES:]],
        "isolation": isolation_text(view.isolation) if view.isolation else "",
        "contained": view.isolation is not None and view.isolation.boundary != "none",
        "message": view.message,
        "waits": view.waits,
        "waiting": waiting,
        "line": status_line(view, now),
        "bar_lines": bar_lines(view),
    }


def log_text(view: View) -> str:
    """The last lines of the log, and of `logging` below them."""
    text = "\n".join(plain_text(view.tail).split("\n")[-_LOG_LINES:])
    text = text if len(text) <= _LOG_CHARACTERS else f"… {text[-_LOG_CHARACTERS:]}"
    records = [f"{one.severity.upper()} {one.name}: {one.content}" for one in view.records[-20:]]
    return text if not records else f"{text.rstrip()}\n\nlogging:\n" + "\n".join(records)

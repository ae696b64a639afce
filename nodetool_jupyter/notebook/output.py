"""A job's output in the cell that started it, as if the cell itself had written it, up to a limit."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from ..events import AnyEvent, ClearOutput, Display, JobUpdate, Stream, StreamName
from ..following import ends
from ..quantities import format_size
from ..view import squash

_MOST_MESSAGES = 50
_PICTURE_SHARE = 16
_Shown = Stream | Display | ClearOutput


class CellOutput:
    """Publishes through the streams and the display publisher that were the cell's when it started.

    context: a copy of the cell's, which decides where IPython sends what another thread writes.
    max_bytes: text that is shown; pictures count a sixteenth. `again` shows anew what a cleared output
    has to show first. `explain` says what is to be written when the job has ended, if anything.
    """

    def __init__(
        self,
        shell: Any,
        context: contextvars.Context,
        *,
        max_bytes: int,
        more: str,
        again: Callable[[], None] = lambda: None,
        explain: Callable[[JobUpdate], str] = lambda last: "",
    ) -> None:
        self._context = context
        self._streams: dict[StreamName, TextIO] = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._displays = shell.display_pub if shell is not None else None
        self._left = float(max_bytes)
        self._max_bytes = max_bytes
        self._more = more
        self._again = again
        self._explain = explain
        self._clear_next = False
        self.at_line_start = True

    def publish(self, events: Sequence[AnyEvent]) -> Sequence[AnyEvent]:
        """Show these in order; what is too much for one turn comes back."""
        shown = condensed(events)
        now, later = shown[:_MOST_MESSAGES], shown[_MOST_MESSAGES:]
        self._context.run(self._publish, now)
        last = events[-1] if events else None
        if not isinstance(last, JobUpdate) or not ends(last):
            return later
        if later:
            return [*later, last]
        self._context.run(self._tell, self._explain(last))
        return ()

    def _publish(self, shown: Sequence[_Shown]) -> None:
        for event in shown:
            if isinstance(event, ClearOutput):
                self._clear(event)
            elif isinstance(event, Stream):
                self._write(event.name, event.text)
            else:
                self._display(event)
        for stream in self._streams.values():
            stream.flush()

    def _tell(self, why: str) -> None:
        if why:
            start = "" if self.at_line_start else "\n"
            self._streams["stderr"].write(f"{start}{why}\n")
            self._streams["stderr"].flush()

    def _clear(self, event: ClearOutput) -> None:
        if event.wait:
            self._clear_next = True
        elif self._displays is not None:
            self._clear_now()

    def _clear_now(self) -> None:
        self._clear_next = False
        if self._displays is not None:
            self._displays.clear_output(wait=True)
            self._again()

    def _write(self, name: StreamName, text: str) -> None:
        room = int(self._left)
        self._left -= len(text)
        if room <= 0 and self._left < 0:
            return
        if self._clear_next:
            self._clear_now()
        cut = text[:room] if self._left < 0 else text
        self._streams[name].write(cut)
        self.at_line_start = cut.endswith("\n")
        if self._left < 0:
            self._say_more()

    def _display(self, event: Display) -> None:
        if not event.update:
            size = sum(_size(mime, content) for mime, content in event.data.items())
            if size > self._left and not (event.result and size < self._max_bytes):
                if self._left >= 0:
                    self._left = -1
                    self._say_more()
                return
            self._left -= size
        if self._clear_next:
            self._clear_now()
        if self._displays is None:
            if not event.update:
                self._streams["stdout"].write(f"{event.data.get('text/plain', '')}\n")
            return
        transient = {"display_id": event.display_id} if event.display_id else None
        self._displays.publish(
            data=dict(event.data), metadata=dict(event.metadata), transient=transient, update=event.update
        )
        self.at_line_start = True

    def _say_more(self) -> None:
        start = "" if self.at_line_start else "\n"
        self._streams["stderr"].write(
            f"{start}… Output beyond {format_size(self._max_bytes)} is not shown. {self._more}\n"
        )
        self.at_line_start = True


def condensed(events: Sequence[AnyEvent]) -> list[_Shown]:
    """What is left to show of several events: text in one piece, no text that was overwritten, cleared or replaced."""
    shown: list[_Shown] = []
    texts: list[str] = []
    waiting: ClearOutput | None = None
    for event in events:
        if isinstance(event, Stream | Display) and waiting is not None:
            shown, waiting = [waiting], None
        if isinstance(event, Stream):
            last = shown[-1] if shown else None
            if isinstance(last, Stream) and last.name == event.name:
                texts.append(event.text)
            else:
                shown = _joined(shown, texts)
                shown.append(event)
        elif isinstance(event, ClearOutput):
            shown = _joined(shown, texts)
            waiting = event if event.wait else None
            if not event.wait:
                shown = [event]
        elif isinstance(event, Display):
            shown = _joined(shown, texts)
            if event.update:
                shown = [one for one in shown if not _is_update_of(one, event.display_id)]
            shown.append(event)
    shown = _joined(shown, texts)
    if waiting is not None:
        shown.append(waiting)
    return [Stream(name=one.name, text=squash(one.text)) if isinstance(one, Stream) else one for one in shown]


def _joined(shown: list[_Shown], texts: list[str]) -> list[_Shown]:
    """With the texts that go on after the last one joined to it, in one copy."""
    last = shown[-1] if shown else None
    if texts and isinstance(last, Stream):
        shown = [*shown[:-1], Stream(name=last.name, text="".join([last.text, *texts]))]
    texts.clear()
    return shown


def _is_update_of(event: _Shown, display_id: str) -> bool:
    return isinstance(event, Display) and event.update and event.display_id == display_id


def _size(mime: str, content: object) -> float:
    size = len(content) if isinstance(content, str) else 256
    return size / _PICTURE_SHARE if mime.startswith("image/") and mime != "image/svg+xml" else size


class NoOutput:
    """Nowhere: what a background job of a terminal writes stays in its log."""

    def publish(self, events: Sequence[AnyEvent]) -> Sequence[AnyEvent]:
        """Show nothing."""
        return ()

"""The plainer ways to show a job: a line of text that changes, a line at its end, or nothing."""

from __future__ import annotations

import contextvars
import shutil
import time
from typing import Any, TextIO
from uuid import uuid4

from ..view import View, bar_lines, final_line, final_text, status_line, view_html, warning_lines

_LEAST_SECONDS = 0.5
_PLAIN_SECONDS = 5.0


class NoFace:
    """Shows nothing but the output."""

    clock_seconds = 0.0

    def hide(self) -> None:
        """Nothing is in the way."""

    def paint(self, view: View) -> None:
        """Show nothing."""

    def finish(self, view: View) -> None:
        """Show nothing."""

    def repeat(self, view: View) -> None:
        """Show nothing."""


class LastLine(NoFace):
    """One line at the end, the same in every run: what a saved notebook and nbval want."""

    def __init__(self, shell: Any, context: contextvars.Context) -> None:
        self._displays = shell.display_pub
        self._context = context

    def finish(self, view: View) -> None:
        """Show how it went, without times and ids."""
        data = {"text/plain": final_text(view, stable=True), "text/html": view_html(view, stable=True)}
        self._context.run(self._displays.publish, data=data)


class TextInCell(NoFace):
    """A few lines of text in the cell, brought up to date in place."""

    clock_seconds = 1.0

    def __init__(self, shell: Any, context: contextvars.Context, first: View) -> None:
        self._displays = shell.display_pub
        self._context = context
        self._display_id = f"nodetool-{uuid4().hex}"
        self._painted = 0.0
        self._said = ""
        self.show(first)

    def show(self, view: View) -> None:
        """Put the lines into the cell, at first and anew after it was cleared; in the job's context."""
        self._publish(view, update=False)

    def paint(self, view: View) -> None:
        """Bring them up to date, twice a second at most."""
        if time.monotonic() - self._painted >= _LEAST_SECONDS:
            self._context.run(self._publish, view, update=True)

    def finish(self, view: View) -> None:
        """Say how it went."""
        self._context.run(self._publish, view, update=True)

    def _publish(self, view: View, *, update: bool) -> None:
        ended = view.status.final
        now = [status_line(view, time.time()), *bar_lines(view), *warning_lines(view)]
        text = final_text(view) if ended else "\n".join(now)
        if update and text == self._said:
            return
        self._said, self._painted = text, time.monotonic()
        data = {"text/plain": text, **({"text/html": view_html(view)} if ended else {})}
        self._displays.publish(data=data, transient={"display_id": self._display_id}, update=update)


class TerminalLine(NoFace):
    """A line below the output of a terminal, redrawn in place."""

    clock_seconds = 0.5

    def __init__(self, stream: TextIO, output: Any) -> None:
        self._stream = stream
        self._output = output
        self._drawn = False
        self._said: set[str] = set()

    def hide(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def paint(self, view: View) -> None:
        """Draw it, unless the job's own last line is not finished."""
        if self._output.at_line_start:
            columns = shutil.get_terminal_size().columns
            for line in self._news(view):
                self._stream.write(f"\r\x1b[K{line}\n")
            self._stream.write(f"\r\x1b[K{status_line(view, time.time(), columns=columns - 1)}")
            self._stream.flush()
            self._drawn = True

    def finish(self, view: View) -> None:
        """Leave the last line standing."""
        self.hide()
        start = "" if self._output.at_line_start else "\n"
        self._stream.write(start + "".join(f"{line}\n" for line in [final_line(view), *self._news(view)]))
        self._stream.flush()

    def _news(self, view: View) -> list[str]:
        """Warnings that have come up and stand nowhere above."""
        news = [line for line in warning_lines(view) if line not in self._said]
        self._said.update(news)
        return news


class PlainLines(NoFace):
    """Lines for a stream that can't be redrawn: one now and then, one at the end. `stable`: the last one alone."""

    def __init__(self, stream: TextIO, output: Any, *, stable: bool = False) -> None:
        self._stream = stream
        self._output = output
        self._stable = stable
        self._trouble = ""
        self._written = time.monotonic()

    def paint(self, view: View) -> None:
        """Write a line if the last one is old, or if something keeps the job from going on."""
        if view.trouble != self._trouble:
            self._trouble = view.trouble
            self._stream.write("".join(f"{line}\n" for line in warning_lines(view)[-1:] if view.trouble))
            self._stream.flush()
        if not self._stable and time.monotonic() - self._written >= _PLAIN_SECONDS and self._output.at_line_start:
            self._written = time.monotonic()
            self._stream.write(f"{status_line(view, time.time())}\n")

    def finish(self, view: View) -> None:
        """Write how it went."""
        start = "" if self._output.at_line_start else "\n"
        self._stream.write(f"{start}{final_text(view, stable=self._stable)}\n")
        self._stream.flush()

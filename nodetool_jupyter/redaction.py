"""What of a job's events is recorded when it was given secrets: everything but their values.

It keeps a secret from ending up in a store or on a page by accident. Code that wants to show it can: in another
encoding, backwards, letter by letter.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from . import events as ev

FEWEST_CHARACTERS = 4
"""A shorter value is not looked for: it stands in half of all words."""

_FEWEST_OF_A_LINE = 16
"""A shorter line of a secret may stand in any text: `-----`, a name, a brace."""

_HEAD = 8  # so much of a secret is looked for at once, which few texts have by chance
_MASK = "***"
_FIELDS: dict[type, tuple[str, ...]] = {  # what the job's own words get into; the other fields are ours
    ev.Stream: ("text",),
    ev.LogUpdate: ("content", "node_name"),
    ev.Notification: ("content",),
    ev.NodeProgress: ("chunk", "label", "unit"),
    ev.Display: ("data", "metadata", "display_id"),
    ev.OutputUpdate: ("output_name", "value", "output_type"),
    ev.JobUpdate: ("message", "result", "error", "traceback"),
    ev.Exit: ("detail",),
}
_BESIDE_THE_OUTPUT = (ev.UsageUpdate, ev.Isolation)
_BASE64 = re.compile(r"(?:image/(?!svg)|audio/|video/|application/(?:pdf|octet-stream))")


class Redaction:
    """Cuts secrets out of one job's events, in order.

    The end of a stream's text that may begin a secret is kept back until that stream goes on, or until an event of
    another kind comes, so that no text is lost and all of it stays where it was.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = sorted({form for value in secrets for form in _forms(value)}, key=len, reverse=True)
        self._forms = forms
        self._pattern = re.compile("|".join(map(re.escape, forms)))
        self._held: ev.Stream | None = None

    def __call__(self, events: Iterable[ev.AnyEvent]) -> list[ev.AnyEvent]:
        """The events that can be recorded by now. The last of a job, a `JobUpdate`, leaves nothing behind."""
        passed: list[ev.AnyEvent] = []
        for event in events:
            if isinstance(event, ev.Stream):
                self._stream(event, passed)
                continue
            if self._held is not None and not isinstance(event, _BESIDE_THE_OUTPUT):
                passed.append(self._held)
                self._held = None
            passed.append(self._redacted(event))
        return passed

    def text(self, text: str) -> str:
        """The text without secrets."""
        return self._pattern.sub(_MASK, text)

    def _stream(self, event: ev.Stream, passed: list[ev.AnyEvent]) -> None:
        text = event.text
        if self._held is not None:
            if self._held.name == event.name:
                text = self._held.text + text
            else:
                passed.append(self._held)
        shown, held = self._split(text)
        self._held = ev.Stream(name=event.name, text=held) if held else None
        if shown:
            passed.append(msgspec.structs.replace(event, text=shown))

    def _split(self, text: str) -> tuple[str, str]:
        """What can be shown, and the longest end that begins a secret."""
        parts: list[str] = []
        at, end = 0, self._beginning(text, 0)
        while (found := self._pattern.search(text, at)) is not None and found.start() < end:
            parts += (text[at : found.start()], _MASK)
            at = found.end()
            if at > end:
                end = self._beginning(text, at)
        parts.append(text[at:end])
        return "".join(parts), text[end:]

    def _beginning(self, text: str, at: int) -> int:
        """Where the longest end of the text begins that is the beginning of a secret, and less than all of it."""
        found = len(text)
        for form in self._forms:
            head, start = form[:_HEAD], max(at, len(text) - len(form) + 1)
            ends = range(max(start, len(text) - len(head) + 1), len(text))  # shorter than the head
            while 0 <= (start := text.find(head, start, found + len(head))) < found:
                if form.startswith(text[start:]):
                    found = start
                start += 1
            found = next((start for start in ends if start < found and form.startswith(text[start:])), found)
        return found

    def _redacted(self, event: ev.AnyEvent) -> ev.AnyEvent:
        changes: dict[str, Any] = {}
        for name in _FIELDS.get(type(event), ()):
            value = getattr(event, name)
            changes[name] = self._shown(value) if name == "data" else self.value(value)
        redacted: ev.AnyEvent = msgspec.structs.replace(event, **changes) if changes else event
        return redacted

    def _shown(self, data: dict[str, Any]) -> dict[str, Any]:
        """A MIME bundle. In a short secret's letters, base64 would hold it by chance, and the picture would break."""
        return {mime: content if _BASE64.match(mime) else self.value(content) for mime, content in data.items()}

    def value(self, value: Any) -> Any:
        """A plain value without secrets, also as numbers and within lists and dicts."""
        try:
            return self._walk(value)
        except RecursionError:  # nobody can read that deep
            return _MASK

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self._walk(key): self._walk(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._walk(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _MASK if self._pattern.search(str(value)) else value
        return value


def redaction(secrets: Iterable[str]) -> Redaction | None:
    """What cuts these out; `None` where there is nothing to cut out, so that it costs nothing."""
    long = [value for value in secrets if len(value.strip()) >= FEWEST_CHARACTERS]
    return Redaction(long) if long else None


def _forms(value: str) -> set[str]:
    """How a text is commonly shown, whole and, where it has several lines, one line after another."""
    bare = value.strip()
    lines = {line.strip() for line in bare.splitlines()}
    return set().union(*map(_written, {bare, *(line for line in lines if len(line) >= _FEWEST_OF_A_LINE)}))


def _written(text: str) -> set[str]:
    """A text as it is, and as Python, JSON and HTML write it."""
    as_bytes = repr(text.encode("utf-8", "surrogateescape"))[2:-1]
    quoted = {repr(text)[1:-1], ascii(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return {text, html.escape(text), html.escape(text, quote=False), as_bytes, *quoted}

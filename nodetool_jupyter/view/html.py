"""A finished job as static HTML: one line that unfolds. Everything is escaped, and there is no script.

Colours are Jupyter's own variables, with plain ones where the page has none.
"""

from __future__ import annotations

from html import escape

from ..jobs import JobStatus
from ..quantities import format_duration, format_size
from .isolation import isolation_rows
from .lines import plain_text
from .model import View, elapsed_seconds
from .text import MARKS, bar_lines, receipt_text, title, usage_text, warnings

_FONT = (
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:var(--jp-ui-font-size1,13px);line-height:1.5"
)
_DIM = "color:var(--jp-ui-font-color2,#666)"
_CODE = (
    "font-family:var(--jp-code-font-family,monospace);font-size:var(--jp-code-font-size,13px);margin:4px 0 0;"
    "padding:0;border:0;background:none;white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow:auto"
)
_COLOURS = {
    JobStatus.COMPLETED: "var(--jp-success-color1,#2e7d32)",
    JobStatus.FAILED: "var(--jp-error-color1,#c62828)",
    JobStatus.CANCELLED: "var(--jp-warn-color1,#b26a00)",
}
_NOTES = {"warning": "var(--jp-warn-color1,#b26a00)", "error": "var(--jp-error-color1,#c62828)"}
_LAST_LINES = 40


def view_html(view: View, *, stable: bool = False) -> str:
    """The folded line and, unless `stable`, what it unfolds to."""
    inside = "" if stable else _inside(view)
    line = _line(view, stable=stable)
    notes = "".join(
        f'<div style="padding-left:18px;color:{_NOTES[note.severity]}">{escape(note.content)}</div>'
        for note in warnings(view)
    )
    box = f'<div class="nodetool-job" style="{_FONT};color:var(--jp-ui-font-color1,inherit);padding:2px 0">'
    if not inside:
        return f"{box}{line}{notes}</div>"
    return f'{box}<details><summary style="cursor:pointer">{line}</summary>{inside}</details>{notes}</div>'


def _line(view: View, *, stable: bool) -> str:
    colour = _COLOURS.get(view.status, "var(--jp-brand-color1,#1976d2)")
    mark = f'<span style="color:{colour};font-weight:600" aria-hidden="true">{MARKS.get(view.status, "●")}</span>'
    rest = [view.runner]
    if view.status is not JobStatus.COMPLETED:
        rest.append(view.status.value)
    if not stable:
        elapsed = elapsed_seconds(view, view.ts)
        rest += [format_duration(elapsed)] if elapsed is not None else []
        rest += [f"peak {format_size(view.usage.peak_memory_bytes)}"] if view.usage.peak_memory_bytes else []
    said = "".join(f" · {escape(part)}" for part in rest)
    name = f'<span style="font-weight:600">{escape(title(view, stable=stable))}</span>'
    return f'{mark} {name}<span style="{_DIM};font-variant-numeric:tabular-nums">{said}</span>'


def _inside(view: View) -> str:
    facts = [
        ("cause", view.message),
        ("usage", usage_text(view)),
        *(isolation_rows(view.isolation, view.limits) if view.isolation else ()),
        ("came back", ", ".join(one.name for one in view.returned)),
        ("stop", receipt_text(view)),
        ("job", view.job_id),
    ]
    facts += [(note.severity, note.content) for note in view.notes if note.severity in ("info", "debug")]
    rows = "".join(
        f'<div style="display:flex;gap:12px"><span style="{_DIM};flex:0 0 6em">{escape(name)}</span>'
        f'<span style="overflow-wrap:anywhere">{escape(value)}</span></div>'
        for name, value in facts
        if value
    )
    texts = ["\n".join(bar_lines(view)), "\n".join(plain_text(view.tail).split("\n")[-_LAST_LINES:]).strip("\n")]
    blocks = "".join(f'<pre style="{_CODE}">{escape(text)}</pre>' for text in texts if text)
    return f'<div style="padding:4px 0 4px 18px">{rows}{blocks}</div>'

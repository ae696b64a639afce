"""What a person sees of a job: a pure fold of its events, and its forms as text and HTML."""

from .folding import begin, fold, fold_all
from .html import view_html
from .isolation import isolation_rows, isolation_text, limit_text, limits_in_force, names_of_limits
from .lines import Lines, line_text, plain_text, settled, squash, write
from .model import Bar, Note, Shown, Text, View, elapsed_seconds, remaining_seconds
from .text import (
    bar_lines,
    final_line,
    final_text,
    stalled_text,
    status_line,
    title,
    usage_text,
    view_text,
    warning_lines,
    warnings,
)

__all__ = [
    "Bar",
    "Lines",
    "Note",
    "Shown",
    "Text",
    "View",
    "bar_lines",
    "begin",
    "elapsed_seconds",
    "final_line",
    "final_text",
    "fold",
    "fold_all",
    "isolation_rows",
    "isolation_text",
    "limit_text",
    "limits_in_force",
    "line_text",
    "names_of_limits",
    "plain_text",
    "remaining_seconds",
    "settled",
    "squash",
    "stalled_text",
    "status_line",
    "title",
    "usage_text",
    "view_html",
    "view_text",
    "warning_lines",
    "warnings",
    "write",
]

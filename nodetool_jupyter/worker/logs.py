"""Records of `logging` as reports, beside whatever handlers the person has set."""

from __future__ import annotations

from .current import current
from .execute import attempt
from .imports import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST = 64 << 10


def install() -> None:
    """Follow the loggers once `logging` is imported. No handler is added, so `basicConfig` works as ever."""
    when_imported("logging", _follow)


def _follow(logging: Any) -> None:
    call_handlers = logging.Logger.callHandlers

    def callHandlers(self: Any, record: Any) -> None:  # noqa: N802 - logging's own name
        inside = current()
        if inside is not None:
            content, error = attempt(_content, record)
            if error is None and content is not None:
                severity = _severity(record.levelno)
                name = str(record.name)
                inside.outlet.emit({"type": "log_update", "node_name": name, "content": content, "severity": severity})
        call_handlers(self, record)

    logging.Logger.callHandlers = callHandlers


def _content(record: Any) -> str:
    content = str(record.getMessage())
    if record.exc_info and record.exc_info[1] is not None:
        import traceback

        content += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
    return content[:_LONGEST]


def _severity(level: int) -> str:
    for least, word in ((40, "error"), (30, "warning"), (20, "info")):
        if level >= least:
            return word
    return "debug"
